package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
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

func TestSpaceRunsCommandsOnGocryptfs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher := mountOutput(t, s, "out")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "out", `echo hello > "$1"/file && cat "$1"/file; exit 3`, s.Path("out"))
	if got != "hello" || exit != (Exit{Code: 3}) {
		t.Fatalf("output %q, %+v", got, exit)
	}
	seen, err := os.ReadFile(filepath.Join(s.Outside("out"), "file"))
	if err != nil || string(seen) != "hello\n" {
		t.Fatalf("from outside: %q, %v", seen, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(cipher)
	if err != nil || len(names) != 3 { // diriv, file, captured output
		t.Fatalf("cipher directory: %v, %v", names, err)
	}
	if found := grep(t, cipher, "hello"); found != "" {
		t.Fatalf("%s holds plaintext", found)
	}
}

// grep returns the first file below dir that contains text.
func grep(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCommandsStartClean(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for name, test := range map[string]struct{ script, want string }{
		"user":         {`id -u; id -g`, strconv.Itoa(os.Geteuid()) + "\n" + strconv.Itoa(os.Getegid())},
		"capabilities": {`grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d ' \t0'`, "CapInh:\nCapPrm:\nCapEff:\nCapAmb:"},
		"core":         {`ulimit -Hc`, "0"},
		"environment":  {`tr '\0' '\n' < /proc/$$/environ`, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		"descriptors":  {`ls /proc/$$/fd`, "0\n1\n2"},
		"stdin":        {`wc -c`, "0"},
		"directory":    {`pwd`, "/"},
		// The C library's own two (32 and 33) stay as whoever started the tests left them; make ignores them.
		"signals": {`while read -r k v; do case $k in SigBlk: | SigIgn:) echo $((0x$v & 0x7fffffff)) ;; esac; done < /proc/self/status`, "0\n0"},
		"session": {`set -- $(cat /proc/$$/stat); [ $1 = $5 ] && [ $1 = $6 ] && echo leader`, "leader"},
		"shm":     {`ls -A /dev/shm; echo x > /dev/shm/x && echo writable`, "writable"},
		"mounts":  {`mkdir -p "$1/m" && mount -t tmpfs x "$1/m" >/dev/null 2>&1 || echo refused`, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			got, exit := shell(t, s, "", test.script, s.Path("."))
			if got != test.want || exit.Code != 0 {
				t.Errorf("got %q (%+v), want %q", got, exit, test.want)
			}
		})
	}
	if _, err := os.Stat("/dev/shm/x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/dev/shm is shared with the outside: %v", err)
	}
}

func TestCommandErrors(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	path := []string{"PATH=/usr/bin:/bin"}
	for name, test := range map[string]struct {
		cmd  Cmd
		want error
	}{
		"missing":        {Cmd{Argv: []string{"/no/such"}}, os.ErrNotExist},
		"not in PATH":    {Cmd{Argv: []string{"no-such-program"}, Env: path}, os.ErrNotExist},
		"no PATH":        {Cmd{Argv: []string{"sh"}}, os.ErrNotExist},
		"not executable": {Cmd{Argv: []string{"/etc/passwd"}}, os.ErrPermission},
		"directory":      {Cmd{Argv: []string{"/bin/sh"}, Dir: "/no/such"}, os.ErrNotExist},
		"output":         {Cmd{Argv: []string{"/bin/sh"}, Stdout: "/no/such/file"}, os.ErrNotExist},
	} {
		if _, err := s.Start(test.cmd); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if _, err := s.Start(Cmd{}); err == nil {
		t.Error("an empty command started")
	}
	if _, err := s.Start(Cmd{Argv: []string{"sh", strings.Repeat("x", maxFrame)}, Env: path}); err == nil {
		t.Error("a command larger than any message started")
	}
	if got, _ := shell(t, s, "", "echo still there"); got != "still there" {
		t.Errorf("after errors: %q", got)
	}
}

func TestArgumentsOfAnyBytes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	arg := "\x80\xff \n'\"$(x)"
	got, _ := shell(t, s, "", `printf '%s|' "$@"`, arg, "", strings.Repeat("y", 100_000))
	if want := arg + "||" + strings.Repeat("y", 100_000) + "|"; got != want {
		t.Errorf("arguments arrived as %.40q", got)
	}
}

func TestSignalReachesTheCommandAlone(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	start := func(script string) *Proc {
		fifo := s.Path("ready")
		p, err := s.Start(Cmd{Argv: []string{"sh", "-c", script, "sh", fifo}, Env: []string{"PATH=/usr/bin:/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if got, exit := shell(t, s, "", `mkfifo "$1"`, s.Path("ready")); exit.Code != 0 {
		t.Fatal(got)
	}
	ready := func() { // opening blocks until the script writes
		if _, err := os.ReadFile(s.Outside("ready")); err != nil {
			t.Fatal(err)
		}
	}
	// The command learns whether its child in the group had the signal too: 143 if so.
	p := start(`sleep 1000 & c=$!; trap 'kill -KILL $c; wait $c; exit $?' TERM; echo > "$1"; wait $c`)
	ready()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit != (Exit{Code: 137}) {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	p = start(`echo > "$1"; exec sleep 1000`)
	ready()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit != (Exit{Code: 137, Signal: syscall.SIGKILL}) {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestKillAllLeavesNobody(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	if got, exit := shell(t, s, "", `mkfifo "$1"`, s.Path("ready")); exit.Code != 0 {
		t.Fatal(got)
	}
	p, err := s.Start(Cmd{
		// Daemons that left the session, ignore signals, and fork on.
		Argv: []string{"sh", "-c", `trap '' TERM
			for i in 1 2 3 4 5 6; do (setsid sh -c 'echo >&3; while :; do sleep 0.01; done' &) ; done 3>"$1"; sleep 1000`, "sh", s.Path("ready")},
		Env: []string{"PATH=/usr/bin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := os.Open(s.Outside("ready"))
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	if _, err := io.ReadFull(ready, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := s.KillAll(); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
	got, _ := shell(t, s, "", `set -- /proc/[0-9]*; echo $#`)
	if got != "2" { // process 1 and this shell
		t.Errorf("%s processes, want 2", got)
	}
}

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

func TestFreeze(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	if err := s.Mkdir("a/b", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile("a/b/script", []byte("#!/bin/sh\necho yes\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := s.Start(Cmd{Argv: []string{s.Path("a/b/script")}, Stdout: s.Path("a/out")})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if fi, err := os.Stat(s.Outside("a/out")); err != nil || fi.Mode() != 0o600 || fi.Size() != 4 {
		t.Errorf("output: %v, %v", fi, err)
	}
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Mkdir":     s.Mkdir("c", 0o700),
		"WriteFile": s.WriteFile("a/b/script", nil, 0o600),
		"outside":   os.WriteFile(s.Outside("a/x"), nil, 0o600),
		"mount":     s.MountTree("new", &fusetest.Tree{}),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s after Freeze: %v", name, err)
		}
	}
	for _, rel := range []string{"", ".", "..", "../x", "/etc/x", "a/../../x"} {
		if err := s.Mkdir(rel, 0o700); err == nil || !strings.Contains(err.Error(), "not a path below") {
			t.Errorf("Mkdir(%q): %v", rel, err)
		}
	}
}

func TestTmpfsIsBounded(t *testing.T) {
	t.Parallel()
	s, err := NewSpace(context.Background(), SpaceOptions{Dir: fusetest.PrivateDir(t), TmpfsBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.WriteFile("big", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB in a tmpfs of 1 MiB: %v", err)
	}
}

func TestSpaceInSharedMemory(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/dev/shm", "sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	s, err := NewSpace(context.Background(), SpaceOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.MountTree("tree", &fusetest.Tree{}); err != nil {
		t.Fatal(err)
	}
	if got, exit := shell(t, s, "", `stat -f -c %T "$1" && ls -A /dev/shm | wc -l`, s.Path("tree")); got != "fuseblk\n1" && got != "fuse\n1" {
		t.Errorf("%q, %+v", got, exit)
	}
}

func TestUnmountAndMountAgain(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher, key := openRoot(t, fusetest.PrivateDir(t)), newKey(t)
	for _, want := range []string{"", "kept\n"} {
		if err := s.MountGocryptfs("out", cipher, key); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(s.Outside("out/file"))
		if want == "" && !errors.Is(err, os.ErrNotExist) || want != "" && err != nil || string(got) != want {
			t.Errorf("read %q, %v", got, err)
		}
		if got, exit := shell(t, s, "", `echo kept > "$1"/file`, s.Path("out")); exit.Code != 0 {
			t.Fatal(got)
		}
		if err := s.Unmount("out"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unmount("out"); err == nil {
		t.Error("unmounted twice")
	}
	if err := s.MountGocryptfs("out", cipher, newKey(t)); err != nil {
		t.Fatal(err) // gocryptfs cannot know the key; its files say so
	}
	if got, err := os.ReadFile(s.Outside("out/file")); err == nil {
		t.Errorf("another key reads %q", got)
	}
}

func TestUnmountOfABusyMountFails(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	mountOutput(t, s, "out")
	p, err := s.Start(Cmd{Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: s.Path("out")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("out"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("busy: %v", err)
	}
	if err := s.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("out"); err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("%+v, %v", exit, err)
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
	case <-s.gone:
	default:
		t.Error("the child is left")
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("gocryptfs is left: %v", err)
	}
}

func TestChildOutlivesSignalsToTheWholeJob(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		if err := s.child.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	if got, exit := shell(t, s, "", `echo alive`); got != "alive" || exit.Code != 0 {
		t.Errorf("%q, %+v", got, exit)
	}
}

func TestPrivateDirectoryIsRequired(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, "/no/such", "/etc/passwd"} {
		if s, err := NewSpace(context.Background(), SpaceOptions{Dir: dir}); err == nil {
			s.Close()
			t.Errorf("a space at %s", dir)
		}
	}
}
