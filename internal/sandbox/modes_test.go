package sandbox

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

// forUsers reports whether the test runs as an ordinary user, as all of this
// package's tests do once (TestMain). root is refused.
func forUsers(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	for _, mode := range []Mode{Fusermount, Runtime} {
		if _, err := NewSpace(context.Background(), SpaceOptions{Mode: mode, Dir: fusetest.PrivateDir(t)}); !errors.Is(err, ErrRoot) {
			t.Errorf("%v as root: %v", mode, err)
		}
	}
	return false
}

// openMode makes a Space in a mode and checks, when the test ends, that closing it
// leaves nothing.
func openMode(t *testing.T, mode Mode) *Space {
	t.Helper()
	dir := fusetest.PrivateDir(t)
	s, why, err := Open(context.Background(), SpaceOptions{
		Mode: mode, Dir: dir, Gocryptfs: gocryptfsPath, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil || why != nil || (mode != Auto && s.Mode() != mode) {
		t.Fatalf("Open: mode %v, %v, %v", s, why, err)
	}
	t.Cleanup(func() {
		_ = s.Close() // what it says is the test's to judge
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 0 || len(Mounts(dir)) != 0 {
			t.Errorf("left in %s: %v, %v, mounts %q", dir, left, err, Mounts(dir))
		}
	})
	return s
}

func TestModes(t *testing.T) {
	t.Parallel()
	modes := []Mode{Auto, Namespace}
	if forUsers(t) {
		modes = append(modes, Fusermount, Runtime)
	}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := openMode(t, mode)
			cipher := mountOutput(t, s, "sd/out")
			if err := s.MountTree("sd/in", &fusetest.Tree{Files: []string{"content"}}); err != nil {
				t.Fatal(err)
			}
			if err := s.Mkdir("sd/tools", 0o700); err != nil {
				t.Fatal(err)
			}
			if err := s.WriteFile("sd/tools/script", []byte("#!/bin/sh\nexec cat \"$1\"\n"), 0o500); err != nil {
				t.Fatal(err)
			}
			if err := s.Freeze(); err != nil {
				t.Fatal(err)
			}
			got, exit := shell(t, s, "sd/out", `"$1"/tools/script "$1"/in/0 >"$1"/out/file && cat "$1"/out/file
				for p in "$1" "$1"/tools; do ! touch "$p"/x || echo "$p can be written to"; done 2>/dev/null; exit 3`, s.Path("sd"))
			if got != "content" || exit.Code != 3 {
				t.Errorf("output %q, %+v", got, exit)
			}
			seen, err := os.ReadFile(filepath.Join(s.Outside("sd/out"), "file"))
			if err != nil || string(seen) != "content" {
				t.Errorf("from outside: %q, %v", seen, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if found := grep(t, cipher, "content"); found != "" {
				t.Errorf("%s holds plaintext", found)
			}
		})
	}
}

func TestParseWay(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Mode{"": Auto, "auto": Auto, "namespace": Namespace, "fusermount": Fusermount, "runtime": Runtime} {
		if got, err := ParseMode(name); got != want || err != nil {
			t.Errorf("ParseMode(%q) = %v, %v", name, got, err)
		}
	}
	if _, err := ParseMode("2"); err == nil || !strings.Contains(err.Error(), "fusermount") {
		t.Errorf("ParseMode(2): %v", err)
	}
}

func TestWriteAfterServerDeathFailsByFusermount(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	s := openMode(t, Fusermount)
	cipher := mountOutput(t, s, "sd/out")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.mounts[0].server.(*gocryptfs).cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Failed():
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed that gocryptfs died")
	}
	try := func(when string) {
		p, err := s.Start(Cmd{Argv: []string{"sh", "-c", `echo canary > "$1"/leak`, "sh", s.Path("sd/out")}, Env: []string{"PATH=/usr/bin:/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := p.Wait(); err != nil || exit.Code == 0 {
			t.Errorf("%s, a write gave %+v, %v", when, exit, err)
		}
	}
	try("with the server dead")
	if err := s.Unmount("sd/out"); err == nil {
		t.Error("Unmount says nothing of the server that was killed")
	}
	if at := Mounts(s.opt.Dir); len(at) != 0 {
		t.Fatalf("still mounted: %q", at)
	}
	try("after unmounting")
	for _, dir := range []string{cipher, s.opt.Dir} {
		if found := grep(t, dir, "canary"); found != "" {
			t.Errorf("%s holds plaintext", found)
		}
	}
}

func TestKillAllFindsDaemonsWithoutNamespaces(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	s := openMode(t, Fusermount)
	mountOutput(t, s, "out")
	// Daemons: other sessions, parents that are gone, ignored signals, children of their own.
	got, exit := shell(t, s, "out", `for i in 1 2 3 4; do
			setsid sh -c 'trap "" TERM HUP INT; sleep 1000 & echo $! $$ >>"$1"; wait' sh "$1" &
		done
		until [ "$(wc -l 2>/dev/null <"$1")" = 4 ]; do sleep 0.05; done; cat "$1"`, s.Path("out/pids"))
	pids := strings.Fields(got)
	if exit.Code != 0 || len(pids) != 8 {
		t.Fatalf("%q, %+v", got, exit)
	}
	if err := s.KillAll(); err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		pid, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if _, exit := shell(t, s, "out", "exit 5"); exit.Code != 5 {
		t.Errorf("after KillAll nothing can be started: %+v", exit)
	}
}

// After the caller's death the child ends what ran and unmounts; if it is killed
// too, the mounts stay, dead, until somebody clears them.
func TestDeadMountsAreCleared(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	for _, both := range []bool{false, true} {
		t.Run(strconv.FormatBool(both), func(t *testing.T) {
			t.Parallel()
			cmd, got := startSupervisor(t, "fusermount", nil)
			if len(Mounts(got.Dir)) != 2 {
				t.Fatalf("mounts at %s: %q", got.Dir, Mounts(got.Dir))
			}
			running := childrenOf(t, got.Child)
			victims := []int{cmd.Process.Pid}
			if both {
				victims = []int{got.Child, cmd.Process.Pid} // together, as the end of a job's cgroup does it
			}
			for _, pid := range victims {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			cmd.Wait()
			for _, pid := range append(running, got.Gocryptfs, got.Child) {
				waitGone(t, pid)
			}
			if both {
				if len(Mounts(got.Dir)) == 0 {
					t.Fatal("nothing is left to clear")
				}
				if err := Clear(got.Dir); err != nil {
					t.Error(err)
				}
			}
			left, err := os.ReadDir(got.Dir)
			if err != nil || len(left) != 0 || len(Mounts(got.Dir)) != 0 {
				t.Errorf("left: %v, %v, mounts %q", left, err, Mounts(got.Dir))
			}
			if names, err := os.ReadDir(got.Cipher); err != nil || len(names) < 2 {
				t.Errorf("the cipher directory behind the mount was not left alone: %v, %v", names, err)
			}
		})
	}
}

// waitGone waits until a process that is not a child of this one is gone.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) || zombie(pid) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

// zombie: ended, and whoever has to reap it has not yet.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	text := string(b)
	return err == nil && strings.HasPrefix(text[strings.LastIndexByte(text, ')')+1:], " Z")
}

func TestEmptyDirStopsAtMounts(t *testing.T) {
	t.Parallel()
	if !forUsers(t) {
		return
	}
	s := openMode(t, Fusermount)
	cipher := mountOutput(t, s, "out")
	if _, exit := shell(t, s, "out", "exit 0"); exit.Code != 0 {
		t.Fatal(exit)
	}
	if err := emptyDir(s.opt.Dir); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("emptyDir: %v", err)
	}
	if names, err := os.ReadDir(cipher); err != nil || len(names) != 2 {
		t.Errorf("files behind the mount: %v, %v", names, err)
	}
}

// Neither mode works: Open says what was wrong with each.
func TestNoMode(t *testing.T) {
	t.Parallel()
	id := []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	gid := []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	startSupervisor(t, "no mode", &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: id, GidMappings: gid,
		AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
	})
}
