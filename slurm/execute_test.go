package slurm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/shellwords"
)

// fakeSrun stands for srun on a one-node job: it drops its own options but --chdir and runs the rest.
const fakeSrun = `#!/bin/sh
while case $1 in --chdir=*) cd "${1#*=}" ;; -*) ;; *) false ;; esac; do shift; done
exec "$@"
`

// recorder stands for the supervisor: it writes its arguments, one a line, and its directory's mode.
const recorder = `#!/bin/sh
dir=${0%/*}
{ printf '%s\n' "$0" "$@"; stat -c %a "$dir" "$dir/sealbatch" "$dir/second"; } >"$RECORD"
trap 'exit 43' USR1
[ -z "$LINGER" ] || { : >"$LINGER"; while :; do sleep 0.05; done; }
rm -rf "$dir"
exit 42
`

// bench is a directory with everything that a rendered script needs to run for real.
type bench struct {
	dir, record string
	script      Script
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir()}
	b.record = filepath.Join(b.dir, "record")
	for _, d := range []string{"bin", "tmp", "job", "job/bin"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.write(t, "bin/srun", fakeSrun)
	b.script = full()
	b.script.Input, b.script.Dir = "", filepath.Join(b.dir, "job")
	b.script.Pin.SHA256 = b.write(t, "job/manifest.json", "{}")
	b.script.Setup = []string{"export FROM_SETUP=yes"}
	b.script.Node.Binaries = []Binary{
		{"sealbatch", "bin/it's $(touch x)", b.write(t, "job/bin/it's $(touch x)", recorder), int64(len(recorder))},
		{"second", "bin/second", b.write(t, "job/bin/second", "data"), 4},
	}
	return b
}

func (b *bench) write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// log returns the job's log.
func (b *bench) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.script.Dir, "job.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// command returns the rendered script, ready to run in the job's directory.
func (b *bench) command(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	text, err := b.script.Render()
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "job.sh", string(text))
	cmd := exec.Command("bash", filepath.Join(b.dir, "job.sh"))
	cmd.Dir = b.script.Dir
	cmd.Env = append([]string{"PATH=" + b.dir + "/bin:" + os.Getenv("PATH"), "TMPDIR=" + b.dir + "/tmp", "RECORD=" + b.record}, env...)
	return cmd
}

func (b *bench) empty(t *testing.T, name string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(b.dir, name))
	if err != nil || len(left) > 0 {
		t.Errorf("%s holds %v, %v", name, left, err)
	}
}

// The script runs the supervisor from a private copy, with its arguments untouched by any shell, and
// gives its exit code.
func TestScriptRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	out, err := b.command(t).CombinedOutput()
	if code := exitCode(err); code != 42 || len(out) > 0 {
		t.Fatalf("exit %d: %s%s", code, out, b.log(t))
	}
	recorded, err := os.ReadFile(b.record)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(recorded)), "\n")
	self := filepath.Dir(got[0])
	want := append([]string{self + "/sealbatch", "node-run", "--self", self}, b.script.Node.Args...)
	want = append(want, "700", "500", "500")
	if !reflect.DeepEqual(got, want) || filepath.Dir(self) != b.dir+"/tmp" {
		t.Errorf("recorded %q, want %q", got, want)
	}
	if st, err := os.Stat(filepath.Join(b.script.Dir, "job.log")); err != nil || st.Mode() != 0o600 {
		t.Errorf("the log: %v, %v", st.Mode(), err)
	}
	b.empty(t, "tmp")
}

// A program that was changed after submission is not run, and its copy does not stay.
func TestScriptRefusesChangedProgram(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cmd := b.command(t)
	b.write(t, "job/bin/second", "Data")
	out, err := cmd.CombinedOutput()
	if code := exitCode(err); code != 243 || len(out) > 0 || !strings.Contains(b.log(t), "not the program") {
		t.Errorf("exit %d: %s%s", code, out, b.log(t))
	}
	if _, err := os.Stat(b.record); err == nil {
		t.Error("the supervisor ran")
	}
	b.empty(t, "tmp")
}

// Whatever lies in a program's place, the script neither waits for it nor copies without end: here it
// may write a mebibyte a file at most.
func TestScriptBoundsCopies(t *testing.T) {
	t.Parallel()
	for what, plant := range map[string]func(path string) error{
		"a pipe":               func(p string) error { return syscall.Mkfifo(p, 0o700) },
		"an endless device":    func(p string) error { return os.Symlink("/dev/zero", p) },
		"a file without end":   func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o700), os.Truncate(p, 1<<40)) },
		"a directory":          func(p string) error { return os.Mkdir(p, 0o700) },
		"the program and more": func(p string) error { return os.WriteFile(p, []byte("data and more"), 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			inner := b.command(t)
			second := filepath.Join(b.dir, "job/bin/second")
			if err := errors.Join(os.Remove(second), plant(second)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-c", `ulimit -f 1024; exec bash "$1"`, "bash", inner.Args[1])
			cmd.Dir, cmd.Env, cmd.WaitDelay = inner.Dir, inner.Env, time.Second
			said, err := cmd.CombinedOutput()
			code, out := exitCode(err), string(said)+b.log(t)
			if ctx.Err() != nil || strings.Contains(out, "File size limit") {
				t.Errorf("it does not end: %s", out)
			}
			_, ran := os.Stat(b.record)
			if what == "the program and more" { // what is copied is the program
				if code != 42 || ran != nil {
					t.Errorf("exit %d: %s", code, out)
				}
			} else if code == 0 || code == 42 || ran == nil || len(out) == 0 {
				t.Errorf("exit %d, ran %v: %s", code, ran == nil, out)
			}
			b.empty(t, "tmp")
		})
	}
}

// A directory in which nothing runs, or that is full, is passed over for the next one.
func TestScriptPassesOver(t *testing.T) {
	t.Parallel()
	for options, says := range map[string]string{"noexec": "", "size=4k": "No space left"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			inner := b.command(t)
			cmd := exec.Command("unshare", "--mount", "sh", "-c",
				`mount -t tmpfs -o "$1" none "$TMPDIR" && bash "$2"; code=$?; ls -A "$TMPDIR" >>"$RECORD"; exit $code`, "sh", options, inner.Args[1])
			cmd.Dir, cmd.Env = inner.Dir, inner.Env
			_, err := cmd.CombinedOutput()
			out := b.log(t)
			if code := exitCode(err); code != 42 {
				t.Fatalf("exit %d: %s", code, out)
			}
			recorded, err := os.ReadFile(b.record)
			if err != nil || strings.HasPrefix(string(recorded), b.dir) || !strings.HasSuffix(string(recorded), "\n500\n") {
				t.Errorf("ran as %q, %v", recorded, err)
			}
			if says == "" && len(out) > 0 || !strings.Contains(out, says) {
				t.Errorf("said %q", out)
			}
		})
	}
}

// Without any place for the programs the log says what is wrong with each, and what to do.
func TestScriptFindsNoPlace(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	// In the node's /tmp nothing can be run, srun's stand-in neither.
	b.script.Setup = []string{`srun() { while case $1 in -*) ;; *) false ;; esac; do shift; done; "$@"; }`}
	inner := b.command(t, "SLURM_TMPDIR=/no/such")
	cmd := exec.Command("unshare", "--mount", "sh", "-c",
		`for d in /tmp /var/tmp /dev/shm; do mount --bind $d $d && mount -o remount,bind,noexec $d; done
		mount -t tmpfs -o size=4k none "$TMPDIR" && exec bash "$1"`, "sh", inner.Args[1])
	cmd.Dir, cmd.Env = inner.Dir, inner.Env
	_, err := cmd.CombinedOutput()
	out := b.log(t)
	if code := exitCode(err); code != 240 {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, want := range []string{"/no/such: it cannot be entered\n",
		"/tmp: programs cannot be run there (noexec)\n", "hint: set TMPDIR"} {
		if !strings.Contains(out, "sealbatch: "+want) {
			t.Errorf("it does not say %q: %s", want, out)
		}
	}
}

// A signal to the batch shell neither ends it nor reaches the supervisor; the supervisor's code counts.
func TestScriptWaitsOnSignal(t *testing.T) {
	t.Parallel()
	for what, input := range map[string][]string{"without input": nil, "with input": {"first", "second"}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ready := filepath.Join(b.dir, "ready")
			if input != nil {
				b.script.Input = "secrets"
			}
			cmd := b.command(t, "LINGER="+ready)
			if input != nil {
				b.fill(t, input...)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			child := b.childOf(t, cmd.Process.Pid, ready)
			for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			waitsAgain(t, cmd.Process.Pid)
			if err := syscall.Kill(child, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(cmd.Wait()); code != 43 {
				t.Errorf("exit %d, want the supervisor's 43: %s", code, b.log(t))
			}
		})
	}
}

// waitsAgain returns when a shell has taken all its signals and sleeps. What a child leaves that ends while its shell takes
// a signal, bash 5.2 loses now and then: its wait says -1.
func waitsAgain(t *testing.T, shell int) {
	t.Helper()
	var status []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status, _ = os.ReadFile("/proc/" + itoa(shell) + "/status")
		if bytes.Contains(status, []byte("State:\tS")) && bytes.Contains(status, []byte("ShdPnd:\t0000000000000000")) {
			return
		}
	}
	t.Fatalf("the shell does not wait: %s", status)
}

// childOf waits for the file ready and returns the batch shell's only child: srun, which became the supervisor.
func (b *bench) childOf(t *testing.T, shell int, ready string) int {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			out, _ := exec.Command("pgrep", "-P", itoa(shell)).Output()
			return atoi(t, strings.TrimSpace(string(out)))
		}
	}
	t.Fatalf("the supervisor did not start: %s", b.log(t))
	return 0
}

// fill puts the nodes' input into the rendered script.
func (b *bench) fill(t *testing.T, lines ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "job.sh"))
	if err == nil {
		text, err = WithInput(text, lines)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "job.sh", string(text))
}

// A directory that is not the job's, whoever put it there, is left as it is, and there is no log: the
// exit code says why.
func TestScriptNotInJobDirectory(t *testing.T) {
	t.Parallel()
	for what, plant := range map[string]func(b *bench) error{
		"no manifest":      func(b *bench) error { return os.Remove(b.script.Dir + "/manifest.json") },
		"another manifest": func(b *bench) error { return os.WriteFile(b.script.Dir+"/manifest.json", []byte("{} "), 0o600) },
		"a link to the manifest": func(b *bench) error {
			return errors.Join(os.Rename(b.script.Dir+"/manifest.json", b.dir+"/m"), os.Symlink("../m", b.script.Dir+"/manifest.json"))
		},
		"a pipe": func(b *bench) error {
			return errors.Join(os.Remove(b.script.Dir+"/manifest.json"), syscall.Mkfifo(b.script.Dir+"/manifest.json", 0o600))
		},
		"readable by others": func(b *bench) error { return os.Chmod(b.script.Dir, 0o750) },
		"another user's":     func(b *bench) error { return os.Chown(b.script.Dir, 12345, -1) },
		"a link in the place of the log": func(b *bench) error {
			return errors.Join(os.WriteFile(b.dir+"/thesis", nil, 0o600), os.Symlink("../thesis", b.script.Dir+"/job.log"))
		},
		"a directory in the place of the log": func(b *bench) error { return os.Mkdir(b.script.Dir+"/job.log", 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			cmd := b.command(t)
			if err := plant(b); err != nil {
				t.Fatal(err)
			}
			_, err := cmd.CombinedOutput()
			if code := exitCode(err); code != ExitNotOurs {
				t.Errorf("exit %d", code)
			}
			if thesis, err := os.ReadFile(b.dir + "/thesis"); len(thesis) > 0 {
				t.Errorf("a file of the user's now has %q, %v", thesis, err)
			}
			if _, err := os.Stat(b.record); err == nil {
				t.Error("the supervisor ran")
			}
		})
	}
	t.Run("below a setgid directory", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		if err := os.Chmod(b.script.Dir, os.ModeSetgid|0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := b.command(t).CombinedOutput(); exitCode(err) != 42 {
			t.Errorf("exit %d: %s", exitCode(err), b.log(t))
		}
	})
	t.Run("on one node", func(t *testing.T) { // the path leads elsewhere when the node's task starts
		t.Parallel()
		b := newBench(t)
		away := shellwords.QuoteArgs(b.script.Dir)
		b.write(t, "bin/srun", strings.Replace(fakeSrun, "exec", "mv "+away+" "+away+".away && mkdir -m 700 "+away+" && exec", 1))
		err := b.command(t).Run()
		log, _ := os.ReadFile(b.script.Dir + ".away/job.log")
		if exitCode(err) != ExitNotOurs || !strings.Contains(string(log), "/job is not the directory of this job") {
			t.Errorf("exit %d: %s", exitCode(err), b.log(t))
		}
	})
}

// reader stands for a supervisor that reads its input and shows what everybody sees of the script's
// processes, environments included, while it does.
const reader = `#!/bin/bash
IFS= read -r -d "" all
{ printf '%s' "$all"; echo ---; cat /proc/[0-9]*/cmdline /proc/self/environ /proc/$PPID/environ 2>/dev/null | tr '\0' '\n'; } >"$RECORD"
rm -rf "${0%/*}"
exit 42
`

// What the nodes get on standard input is seen nowhere else, even if the site's lines trace everything,
// export everything and have a printf of their own.
func TestScriptInput(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.script.Input = "secrets"
	b.script.Setup = []string{"set -xva", `printf() { echo "$@" >&2; }`, "export -f printf"}
	b.script.Node.Binaries[0].SHA256, b.script.Node.Binaries[0].Size = b.write(t, "job/bin/it's $(touch x)", reader), int64(len(reader))
	cmd := b.command(t)
	if err := cmd.Run(); exitCode(err) != 240 || !strings.Contains(b.log(t), "not for submission, for want of its secrets") {
		t.Errorf("without its input: exit %d: %s", exitCode(err), b.log(t))
	}
	b.fill(t, "SECRET-1", "SECRET 2 $HOME '")
	again := exec.Command(cmd.Path, cmd.Args[1:]...)
	again.Dir, again.Env = cmd.Dir, cmd.Env
	if err := again.Run(); exitCode(err) != 42 {
		t.Fatalf("exit %d: %s", exitCode(err), b.log(t))
	}
	recorded, err := os.ReadFile(b.record)
	input, seen, _ := strings.Cut(string(recorded), "---")
	if err != nil || input != "SECRET-1\nSECRET 2 $HOME '\n" {
		t.Errorf("the node got %q, %v", input, err)
	}
	if !strings.Contains(seen, "job.sh") || strings.Contains(seen, "SECRET") || strings.Contains(b.log(t), "SECRET") {
		t.Errorf("others see\n%s\nthe log has\n%s", seen, b.log(t))
	}
	b.empty(t, "tmp")
}
