package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// launched is a sealbatch command of alice's that something happens to.
type launched struct {
	cmd *exec.Cmd
	out said
}

// said is what a command has printed so far.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func launch(t *testing.T, args ...string) *launched {
	t.Helper()
	b := &launched{cmd: command(context.Background(), "laptop", "alice", append([]string{"sealbatch"}, args...)...)}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *launched) wait() int {
	b.cmd.Wait()
	return b.cmd.ProcessState.ExitCode()
}

// signalled sends a signal to the laptop's sealbatch processes with a word in their command line.
func signalled(t *testing.T, signal, word string) {
	t.Helper()
	must(t, "laptop", "alice", "sh", "-c",
		`for p in $(pgrep -u alice -x sealbatch); do
			tr '\0' '\n' </proc/$p/cmdline | grep -qxF -- "$2" && kill -"$1" "$p" && n=1
		done; [ "$n" = 1 ]`, "sh", signal, word)
}

// arrivedWhole checks that the site has what the laptop sealed, under its final name alone.
func arrivedWhole(t *testing.T, name string) {
	t.Helper()
	here := must(t, "laptop", "alice", "sha256sum", "data/"+name+".sealed")[:64]
	if there := must(t, "login", "alice", "sha256sum", path.Join(alice.scratch(), name+".sealed"))[:64]; there != here {
		t.Error("the site has something else than was sealed")
	}
	if got := onSite(t, alice.scratch(), name+".sealed"); len(got) != 3 {
		t.Errorf("on the site: %q", got)
	}
}

// TestKilledPrep kills data-prep at spread times with kill -9; each time the same command then ends well.
func TestKilledPrep(t *testing.T) {
	t.Parallel()
	write(t, "laptop", "alice", "data/killed-prep/x", strings.Repeat("x", 1<<20))
	args := []string{"data-prep", "-i", "data/killed-prep", "--data-path", "data/killed-prep.sealed",
		"--data-path-at-rest", alice.scratch(), "-u", "alice", "-c", "*"}
	alice.mustSB(t, args...)
	killed := 0
	for wait := 20 * time.Millisecond; wait < 700*time.Millisecond; wait = wait * 3 / 2 {
		write(t, "laptop", "alice", "data/killed-prep/x", strings.Repeat("x", 1<<20+killed)) // else it is there already
		b := launch(t, args...)
		// What is spread are the times of the kill, so this is a sleep on purpose.
		run(t.Context(), "laptop", "alice", nil, "sh", "-c", `sleep "$1"; for p in $(pgrep -u alice -x sealbatch); do
			tr '\0' '\n' </proc/$p/cmdline | grep -qxF data/killed-prep && kill -KILL "$p"; done`, "sh", fmt.Sprintf("%.3f", wait.Seconds()))
		if b.wait() != 0 {
			killed++
		}
	}
	if killed == 0 {
		t.Error("it was never killed")
	}
	alice.mustSB(t, args...)
	arrivedWhole(t, "killed-prep")
	data := alice.scratch() + "/killed-prep.sealed.info.yaml"
	r := alice.sb(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir",
		alice.scratch(), "-args", "/bin/true", "--no-submit")
	if r.code != 0 {
		t.Errorf("nobody can run on it: %s", r)
	}
}

// TestContinue: what was prepared is submitted once, whoever does it, and a second copy gets no key.
func TestContinue(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "continue", simple)
	script := alice.mustSB(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
		"-args", "/sd-container/input/run.sh", "--no-submit")
	dir := path.Dir(script)
	by := must(t, "login", "alice", "sbatch", "--parsable", script)
	if got := alice.mustSB(t, "job-prep", "--continue", dir); got != by {
		t.Errorf("the job that was submitted by hand is %s, found was %q", by, got)
	}
	r := alice.sb(t, "job-prep", "--continue", dir, "-f")
	if r.code != 0 || strings.TrimSpace(r.out) != by {
		t.Errorf("followed: %s", r)
	}
	// The same script once more: it is bound to the first job.
	again := run(t.Context(), "login", "alice", nil, "sbatch", "--parsable", "--wait", script)
	log := must(t, "login", "alice", "cat", filepath.Join(dir, "job.log"))
	if again.code != exitKey || !strings.Contains(log, "belongs to job") {
		t.Errorf("the second copy: %s\n%s", again, log)
	}
	if r := alice.sb(t, "results", by, "-o", "continued"); r.code != 0 || !strings.Contains(r.err, "sealed and signed") {
		t.Errorf("results: %s", r)
	}
}

// TestLostAnswer kills job-prep while sbatch has the job; --continue finds it.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	// A site whose sbatch is slow to answer: the job is in the queue before job-prep hears of it.
	write(t, "login", "alice", "slow/sbatch", "#!/bin/sh\nsbatch \"$@\"\necho >slow/taken\nsleep 30\n")
	must(t, "login", "alice", "sh", "-c", "chmod +x slow/sbatch; for c in squeue sacct scancel; do ln -sf $(command -v $c) slow/$c; done")
	must(t, "laptop", "alice", "sh", "-c",
		`{ cat .config/sealbatch/client.conf; printf '[supercomputer]\nslurm-bin = /home/alice/slow\n'; } >slow.conf`)
	data := alice.dataset(t, "lost-answer", simple)
	b := launch(t, "job-prep", "--config", "slow.conf", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60",
		"--workdir", alice.scratch(), "-J", "lost-answer", "-args", "/sd-container/input/run.sh")
	eventually(t, 90*time.Second, "sbatch has the job", func() bool {
		return run(t.Context(), "login", "alice", nil, "test", "-e", "slow/taken").code == 0
	})
	signalled(t, "KILL", "lost-answer")
	b.wait()
	ref := ""
	for l := range strings.Lines(alice.mustSB(t, "results", "--list") + "\n") {
		if f := strings.Fields(l); len(f) > 3 && f[0] == "submitting" && f[2] == "lost-answer" {
			ref = f[1]
		}
	}
	if ref == "" {
		t.Fatalf("no record of it: %s", alice.mustSB(t, "results", "--list"))
	}
	r := alice.sb(t, "job-prep", "--continue", ref, "-f")
	if r.code != 0 || !strings.Contains(r.err, "Slurm has the job already") {
		t.Errorf("%s", r)
	}
	all := strings.Fields(must(t, "login", "alice", "squeue", "-h", "--me", "-t", "all", "-n", "lost-answer", "-o", "%i"))
	if len(all) != 1 || all[0] != strings.TrimSpace(r.out) {
		t.Errorf("jobs in Slurm: %q", all)
	}
}

// TestRefusedJob: a job that sbatch does not take leaves nothing behind.
func TestRefusedJob(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "refused-job", simple)
	work := alice.scratch() + "/refused-job"
	must(t, "login", "alice", "mkdir", "-p", work)
	args := []string{"job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", work, "-J", "refused-job"}
	told(t, alice.sb(t, append(args, "-p", "no_such_partition")...), 8, "the site has no partition no_such_partition",
		"choose one of them with --partition")
	told(t, alice.sb(t, append(args, "--sbatch", "licenses=no_such")...), 8, "Invalid license",
		"nothing was submitted, and what was prepared is removed")
	if got := onSite(t, work, ""); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	if list := alice.mustSB(t, "results", "--list"); strings.Contains(list, "refused-job") {
		t.Errorf("on record: %s", list)
	}
}

// TestPublishedAgain runs data-prep again while a job waits: unchanged, nothing happens to it. Changed, what waits is
// named beforehand, and gets its key if its version is pinned then.
func TestPublishedAgain(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "again", simple)
	queue := func() string {
		return alice.mustSB(t, "job-prep", "-ai", shell(t), "-di", data, "-t", "10", "--seal-time", "60", "--workdir", alice.scratch(),
			"-args", "/sd-container/input/run.sh", "--sbatch", "--hold")
	}
	first, second := queue(), queue()
	sealed := must(t, "login", "alice", "sha256sum", alice.scratch()+"/again.sealed")
	r := alice.prep(t, "again", alice.scratch())
	if r.code != 0 || strings.TrimSpace(r.out) != data || !strings.Contains(r.err, "already there, unchanged") ||
		strings.Contains(r.err, "supersedes") || must(t, "login", "alice", "sha256sum", alice.scratch()+"/again.sealed") != sealed {
		t.Errorf("unchanged: %s", r)
	}
	follow := func(id string) int {
		must(t, "login", "alice", "scontrol", "release", id)
		return alice.sb(t, "job-prep", "--continue", id, "-f").code
	}
	if code := follow(first); code != 0 {
		t.Errorf("the job that waited meanwhile ended with %d", code)
	}
	write(t, "laptop", "alice", "data/again/new", "n")
	r = alice.prep(t, "again", alice.scratch())
	before, _, _ := strings.Cut(r.err, "sealed and shipped")
	old := regexp.MustCompile(`sealbatch policy set ([0-9a-f]{32}) --pin-version`).FindStringSubmatch(before)
	if r.code != 0 || old == nil || !strings.Contains(before, "waiting for the older version: job "+second+" (PENDING)") ||
		strings.Contains(before, "job "+first+" (") {
		t.Fatalf("changed: %s", r)
	}
	alice.mustSB(t, "policy", "set", old[1], "--pin-version")
	if code := follow(second); code != 0 {
		t.Errorf("the job whose version was pinned ended with %d", code)
	}
}
