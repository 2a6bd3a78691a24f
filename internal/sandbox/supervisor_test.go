package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
	"github.com/sealbatch/sealbatch/internal/harden"
	"github.com/sealbatch/sealbatch/volume"
)

// The tests below need a process of their own: one that is killed, one that
// becomes undumpable, one without namespaces. supervisorMain is that process;
// supervision says what it found.
type supervision struct {
	Err       string
	Child     int
	Gocryptfs int
	Read      string // a file of the volume, read by way of Outside
	Late      string // NewSpace's error after Undumpable
	Dir       string // the Space's
	Cipher    string
}

const envMode = "SEALBATCH_TEST_MODE"

func supervisorMain(dir string) {
	var out supervision
	var err error
	switch mode := os.Getenv(envMode); mode {
	case "undumpable":
		err = supervise(dir, &out)
	case "no namespaces":
		err = withoutNamespaces(dir)
	case "fusermount":
		err = superviseFusermount(dir, &out)
	case "no mode":
		err = withoutAnyMode(dir)
	default:
		err = fmt.Errorf("no mode %q", mode)
	}
	if err != nil {
		out.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		os.Exit(1)
	}
	os.Stdin.Read(make([]byte, 1)) // until killed, or until the test closes it
	os.Exit(0)
}

// supervise does what a job's supervisor does: become undumpable, then mount,
// start and read.
func supervise(dir string, out *supervision) error {
	private, cipher, second := filepath.Join(dir, "private"), filepath.Join(dir, "cipher"), filepath.Join(dir, "second")
	for _, d := range []string{private, cipher, second} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	s, err := NewSpace(context.Background(), SpaceOptions{Dir: private, Gocryptfs: gocryptfsPath})
	if err != nil {
		return err
	}
	if err := harden.Undumpable(); err != nil {
		return err
	}
	if _, err := NewSpace(context.Background(), SpaceOptions{Dir: second}); err != nil {
		out.Late = err.Error()
	}
	key, err := volume.NewKey()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(cipher)
	if err != nil {
		return err
	}
	if err := s.MountGocryptfs("out", root, key); err != nil {
		return err
	}
	if err := s.MountTree("in", &fusetest.Tree{Files: []string{"content"}}); err != nil {
		return err
	}
	env := []string{"PATH=/usr/bin:/bin"}
	p, err := s.Start(Cmd{Argv: []string{"cp", s.Path("in/0"), s.Path("out/copy")}, Env: env})
	if err != nil {
		return err
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		return fmt.Errorf("cp: %+v, %w", exit, err)
	}
	read, err := os.ReadFile(s.Outside("out/copy"))
	if err != nil {
		return err
	}
	for range 2 { // both use a mount
		if _, err := s.Start(Cmd{Argv: []string{"sleep", "1000"}, Env: env, Dir: s.Path("out")}); err != nil {
			return err
		}
	}
	out.Read, out.Child = string(read), s.child.Process.Pid
	out.Gocryptfs = s.mounts[0].server.(*gocryptfs).cmd.Process.Pid
	return nil
}

// withoutNamespaces forbids user namespaces below the one it runs in.
func withoutNamespaces(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	_, err := NewSpace(context.Background(), SpaceOptions{Dir: dir})
	if !errors.Is(err, ErrNoNamespace) {
		return fmt.Errorf("NewSpace says %v, not ErrNoNamespace", err)
	}
	return nil
}

// superviseFusermount mounts by fusermount3, and starts what will not end by itself.
func superviseFusermount(dir string, out *supervision) error {
	out.Dir, out.Cipher = filepath.Join(dir, "private"), filepath.Join(dir, "cipher")
	if err := errors.Join(os.Mkdir(out.Dir, 0o700), os.Mkdir(out.Cipher, 0o700)); err != nil {
		return err
	}
	s, err := NewSpace(context.Background(), SpaceOptions{Mode: Fusermount, Dir: out.Dir, Gocryptfs: gocryptfsPath})
	if err != nil {
		return err
	}
	key, err := volume.NewKey()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(out.Cipher)
	if err != nil {
		return err
	}
	if err := s.MountGocryptfs("sd/out", root, key); err != nil {
		return err
	}
	if err := s.MountTree("sd/in", &fusetest.Tree{Files: []string{"content"}}); err != nil {
		return err
	}
	if err := s.Freeze(); err != nil {
		return err
	}
	env := []string{"PATH=/usr/bin:/bin"}
	_, err = s.Start(Cmd{
		Argv: []string{"sh", "-c", "setsid sleep 1000 & exec sleep 1000"}, Env: env,
		Dir: s.Path("sd/out"), Stdout: s.Path("sd/out/log"),
	})
	out.Child, out.Gocryptfs = s.child.Process.Pid, s.mounts[0].server.(*gocryptfs).cmd.Process.Pid
	return err
}

// withoutAnyMode has neither user namespaces nor a root that fusermount3 could become.
func withoutAnyMode(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	_, _, err := Open(context.Background(), SpaceOptions{Dir: dir})
	if !errors.Is(err, ErrNoMode) || !errors.Is(err, ErrNoNamespace) ||
		!(errors.Is(err, ErrRoot) || strings.Contains(err.Error(), "fusermount: mount FUSE at ")) {
		return fmt.Errorf("Open says %v", err)
	}
	return nil
}

// startSupervisor runs supervisorMain and returns what it reported.
func startSupervisor(t *testing.T, mode string, attr *syscall.SysProcAttr) (*exec.Cmd, supervision) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{
		envMode + "=" + mode, envSupervisor + "=" + fusetest.PrivateDir(t), envGocryptfs + "=" + gocryptfsPath,
		"TMPDIR=" + os.TempDir(), "GORACE=" + os.Getenv("GORACE"),
	}
	cmd.SysProcAttr = attr
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var got supervision
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("supervisor: %v\n%s", err, &stderr)
	}
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if got.Err != "" {
		t.Fatalf("supervisor: %s", got.Err)
	}
	return cmd, got
}

func TestUndumpableSupervisorLeavesNothingWhenKilled(t *testing.T) {
	t.Parallel()
	cmd, got := startSupervisor(t, "undumpable", nil)
	if got.Read != "content" {
		t.Errorf("read %q by way of Outside", got.Read)
	}
	if !strings.Contains(got.Late, "before the process is made undumpable") {
		t.Errorf("a Space made too late: %q", got.Late)
	}
	pids := append(childrenOf(t, got.Child), got.Child, got.Gocryptfs)
	if len(pids) < 4 {
		t.Fatalf("too few processes to watch: %v", pids)
	}
	var watched []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("pid %d: %v", pid, err)
		}
		defer unix.Close(fd)
		watched = append(watched, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := range watched { // a pidfd becomes readable when its process ends
		n, err := unix.Poll(watched[i:i+1], 20_000)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(watched[i:i+1], 20_000)
		}
		if n != 1 || err != nil {
			t.Errorf("pid %d outlives its supervisor: %d, %v", pids[i], n, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(t.TempDir())) {
		t.Errorf("mounts that are left: %s, %v", mounts, err)
	}
}

// childrenOf returns the direct children of a process.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("children of %d: %v, %v", pid, tasks, err)
	}
	var pids []int
	for _, name := range tasks {
		list, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range strings.Fields(string(list)) {
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}

func TestNoNamespacesIsRecognized(t *testing.T) {
	t.Parallel()
	id := []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	gid := []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	startSupervisor(t, "no namespaces", &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: id, GidMappings: gid,
		AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
	})
}
