package sandbox

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestWriteAfterServerDeathFails(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher := mountOutput(t, s, "out")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	pid := s.mounts[0].server.(*gocryptfs).cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), "out") {
			t.Errorf("the failure does not name the mount: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed that gocryptfs died")
	}
	try := func(when string) {
		p, err := s.Start(Cmd{Argv: []string{"sh", "-c", `echo canary > "$1"/leak`, "sh", s.Path("out")}, Env: []string{"PATH=/usr/bin:/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(); err != nil || exit.Code == 0 {
			t.Errorf("%s, a write gave %+v, %v", when, exit, err)
		}
		if _, err := s.Start(Cmd{Argv: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}, Stdout: s.Path("out/log")}); err == nil {
			t.Errorf("%s, an output could be opened", when)
		}
	}
	try("with the server dead")
	if err := s.Unmount("out"); err == nil {
		t.Error("Unmount says nothing of the server that was killed")
	}
	try("after unmounting")
	if err := s.WriteFile("out/leak", []byte("canary"), 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("WriteFile beneath the mount: %v", err)
	}
	if found := grep(t, cipher, "canary"); found != "" {
		t.Errorf("%s holds plaintext", found)
	}
	if left, err := os.ReadDir(s.opt.Dir); err != nil || len(left) != 0 {
		t.Errorf("left outside: %v, %v", left, err)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for program, want := range map[string]string{"/bin/false": "does not answer", "/no/such": "start gocryptfs"} {
		s.opt.Gocryptfs = program
		if err := s.MountGocryptfs("out", openRoot(t, fusetest.PrivateDir(t)), newKey(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", program, err)
		}
		if got, _ := shell(t, s, "", `grep -c " $1 " /proc/self/mounts`, s.Path("out")); got != "0" {
			t.Errorf("%s: %s mounts left", program, got)
		}
	}
}

func TestClosedSpace(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	mountOutput(t, s, "out")
	p, err := s.Start(Cmd{Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: s.Path("out")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("%+v, %v", exit, err)
	}
	if _, err := s.Start(Cmd{Argv: []string{"/bin/true"}}); !errors.Is(err, ErrClosed) {
		t.Errorf("Start: %v", err)
	}
	if err := s.Mkdir("x", 0o700); !errors.Is(err, ErrClosed) {
		t.Errorf("Mkdir: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	select {
	case err := <-s.Failed():
		t.Errorf("closing counts as a failure: %v", err)
	default:
	}
}

func TestDeathOfTheChildIsNoticed(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	mountOutput(t, s, "out")
	p, err := s.Start(Cmd{Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: s.Path("out")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Failed():
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed that the child died")
	}
	if _, err := p.Wait(); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestCloseWithAHangingServer(t *testing.T) {
	t.Parallel()
	s := openSpace(t)
	s.limit = time.Second
	mountOutput(t, s, "out")
	pid := s.mounts[0].server.(*gocryptfs).cmd.Process.Pid
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p, err := s.Start(Cmd{Argv: []string{"sh", "-c", `echo > "$1"/file`, "sh", s.Path("out")}, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil {
		t.Error("closing says nothing of the server that hung")
	}
	if _, err := p.Wait(); err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	select {
	case <-s.client.gone:
	default:
		t.Error("the child is left")
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("gocryptfs is left: %v", err)
	}
}
