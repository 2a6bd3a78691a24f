package fusetest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// User is an unprivileged uid and gid. Number 1 is in every passwd, which
// fusermount3 insists on, and runs nothing.
const User = 1

const envAgain = "SEALBATCH_TEST_AGAIN"

// Run runs the tests, and as root all of them again as User without any
// privilege, which is what a job has. env is what this run has to find in its
// environment. It returns the exit code.
func Run(m *testing.M, env ...string) int {
	if os.Getenv(envAgain) != "" {
		return m.Run()
	}
	code := m.Run()
	if os.Geteuid() == 0 {
		code = max(code, again(env))
	}
	return code
}

// again runs the tests as User.
func again(env []string) int {
	home, err := os.MkdirTemp("", "fusetest-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	// Some machines keep /dev/fuse to root; where people use FUSE it is 0666.
	if err := errors.Join(os.Chown(home, User, User), os.Chmod("/dev/fuse", 0o666)); err != nil {
		panic(err)
	}
	args := []string{"-test.timeout=5m"}
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.v", "test.run", "test.count", "test.short", "test.bench":
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	fmt.Println("--- again, as an unprivileged user")
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Dir = home
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home, envAgain + "=1",
		"GORACE=" + os.Getenv("GORACE")} // how long they wait at their end
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
		Uid: User, Gid: User, Groups: []uint32{User + 1}, // a second one, for chgrp
	}}
	if err := cmd.Run(); err != nil {
		fmt.Println("as an unprivileged user:", err)
		return 1
	}
	return 0
}

// PrivateDir returns a TempDir with mode 0700.
func PrivateDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
