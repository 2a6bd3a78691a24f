package fusefs

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// testUser is an unprivileged uid and gid. Number 1 is in every passwd, which
// fusermount3 insists on, and runs nothing.
const testUser = 1

const (
	envGocryptfs  = "SEALBATCH_TEST_GOCRYPTFS"
	envSupervisor = "SEALBATCH_TEST_SUPERVISOR"
)

// gocryptfsPath is the program built from the version that go.mod pins.
var gocryptfsPath string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildArg {
		if ChildMain() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(envServed); dir != "" {
		if err := servedMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(envSupervisor); dir != "" {
		gocryptfsPath = os.Getenv(envGocryptfs)
		supervisorMain(dir)
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	flag.Parse()
	if gocryptfsPath = os.Getenv(envGocryptfs); gocryptfsPath != "" {
		return m.Run() // this is the unprivileged run below
	}
	dir, err := os.MkdirTemp("", "fusefs-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	gocryptfsPath = filepath.Join(dir, "gocryptfs")
	build := exec.Command("go", "build", "-C", "../tools/gocryptfs", "-tags", "without_openssl", "-o", gocryptfsPath, "github.com/rfjakob/gocryptfs/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build gocryptfs: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if os.Geteuid() == 0 {
		code = max(code, runUnprivileged(dir))
	}
	return code
}

// runUnprivileged runs the tests again as a user without any privilege, which is
// what a job has.
func runUnprivileged(dir string) int {
	// Some machines keep /dev/fuse to root; where people use FUSE it is 0666.
	if err := os.Chmod("/dev/fuse", 0o666); err != nil {
		panic(err)
	}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		panic(err)
	}
	if err := os.Chown(home, testUser, testUser); err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
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
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home, envGocryptfs + "=" + gocryptfsPath}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
		Uid: testUser, Gid: testUser, Groups: []uint32{testUser + 1}, // a second one, for chgrp
	}}
	if err := cmd.Run(); err != nil {
		fmt.Println("as an unprivileged user:", err)
		return 1
	}
	return 0
}

// newSpace makes a Space that the test's end closes, which must succeed.
func newSpace(t testing.TB) *Space {
	t.Helper()
	s := openSpace(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// openSpace makes a Space that the test has to close.
func openSpace(t testing.TB) *Space {
	t.Helper()
	s, err := NewSpace(context.Background(), SpaceOptions{
		Dir: privateTemp(t), Gocryptfs: gocryptfsPath, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// privateTemp is a TempDir with mode 0700.
func privateTemp(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newKey(t testing.TB) volume.Key {
	t.Helper()
	key, err := volume.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mountOutput mounts a new cipher directory at rel and returns it.
func mountOutput(t testing.TB, s *Space, rel string) string {
	t.Helper()
	cipher := privateTemp(t)
	if err := s.MountGocryptfs(rel, cipher, newKey(t)); err != nil {
		t.Fatal(err)
	}
	return cipher
}

// shell runs a script inside and returns its standard output and exit. The
// output goes through the tmpfs, or through a volume if at names one.
func shell(t testing.TB, s *Space, at, script string, args ...string) (string, Exit) {
	t.Helper()
	rel := filepath.Join(at, fmt.Sprintf("out-%d", time.Now().UnixNano()))
	p, err := s.Start(Cmd{
		Argv:   append([]string{"sh", "-c", script, "sh"}, args...),
		Env:    []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Stdout: s.Path(rel), Stderr: s.Path(rel),
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(s.Outside(rel))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), exit
}
