package sandbox

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

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
