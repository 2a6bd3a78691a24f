package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// person is a user with a laptop.
type person string

const (
	alice   person = "alice"
	bob     person = "bob"
	mallory person = "mallory"
)

// sb runs sealbatch on the laptop.
func (p person) sb(t *testing.T, args ...string) result {
	t.Helper()
	return run(t.Context(), "laptop", string(p), nil, append([]string{"sealbatch"}, args...)...)
}

func (p person) mustSB(t *testing.T, args ...string) string {
	t.Helper()
	r := p.sb(t, args...)
	if r.code != 0 {
		t.Fatalf("%s: sealbatch %q: %s", p, args, r)
	}
	return strings.TrimSpace(r.out)
}

// scratch is the user's directory in the project.
func (p person) scratch() string { return path.Join(project, string(p)) }

// dataset publishes files as a dataset and returns its info file. Flags of the
// policy can be added; without them alice may open it on any node.
func (p person) dataset(t *testing.T, name string, files map[string]string, policy ...string) string {
	t.Helper()
	dir := "data/" + name
	for f, content := range files {
		write(t, "laptop", string(p), dir+"/"+f, content)
	}
	if len(policy) == 0 {
		policy = []string{"-u", "alice", "-c", "*"}
	}
	args := append([]string{"data-prep", "-i", dir, "--data-path", "data/" + name + ".sealed", "--data-path-at-rest", p.scratch()}, policy...)
	return p.mustSB(t, args...)
}

// image publishes an image and returns its info file.
func (p person) image(t *testing.T, sif, name string, policy ...string) string {
	t.Helper()
	local, err := os.ReadFile(sif)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "laptop", string(p), "images/"+name+".sif", string(local))
	if len(policy) == 0 {
		policy = []string{"-u", "alice", "-c", "*"}
	}
	args := append([]string{"container-prep", "-b", "images/" + name + ".sif", "--data-path", "images/" + name + ".sealed",
		"--data-path-at-rest", p.scratch()}, policy...)
	return p.mustSB(t, args...)
}

var shellImage struct {
	sync.Mutex
	info string
}

// shell is the info file of an image of alice's that runs a shell, open to all.
func shell(t *testing.T) string {
	t.Helper()
	shellImage.Lock()
	defer shellImage.Unlock()
	if shellImage.info == "" {
		shellImage.info = alice.image(t, testImage(t, "sh.sif"), "sh", "-g", "project_1", "-u", "mallory", "-c", "*")
	}
	return shellImage.info
}

func testImage(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command(cluster, "path-image", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// job is a job that is being followed.
type job struct {
	t   *testing.T
	who person
	id  string
	dir string // on the site
	cmd *exec.Cmd
	log *bytes.Buffer
}

// submit starts job-prep -f and returns when Slurm has taken the job. Unless
// flags say otherwise, the application is the dataset's run.sh, which the shell
// image runs, and it has ten minutes.
func (p person) submit(t *testing.T, image, data string, flags ...string) *job {
	t.Helper()
	return p.submitWith(t, "sealbatch", image, data, flags...)
}

// submitWith is submit by another build of sealbatch, which also runs on the nodes.
func (p person) submitWith(t *testing.T, program, image, data string, flags ...string) *job {
	t.Helper()
	args := append([]string{program, "job-prep", "-ai", image, "-di", data, "-f"}, flags...)
	for flag, value := range map[string]string{"-t": "10", "--seal-time": "60", "--workdir": p.scratch(),
		"-args": "/sd-container/input/run.sh"} {
		if !slices.Contains(flags, flag) {
			args = append(args, flag, value)
		}
	}
	j := &job{t: t, who: p, cmd: command(context.Background(), "laptop", string(p), args...), log: new(bytes.Buffer)}
	j.cmd.Stderr = j.log
	out, err := j.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	line, _ := r.ReadString('\n')
	j.id = strings.TrimSpace(line)
	if j.id == "" {
		j.cmd.Wait()
		t.Fatalf("job-prep of %s did not submit: %s", p, j.log)
	}
	go io.Copy(io.Discard, r)
	for _, l := range strings.Split(p.mustSB(t, "results", "--list"), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == j.id {
			j.dir = f[len(f)-1]
		}
	}
	if j.dir == "" {
		t.Fatalf("job %s is not in the list of jobs", j.id)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("job %s:\n%s", j.id, j.log)
		}
	})
	return j
}

// wait returns the exit code of job-prep -f when the job has ended.
func (j *job) wait() int {
	j.t.Helper()
	j.cmd.Wait()
	return j.cmd.ProcessState.ExitCode()
}

// results opens the job's results in a new directory and returns, for each
// node, where this machine finds them.
func (j *job) results() (map[string]string, result) {
	j.t.Helper()
	dir := "/home/" + string(j.who) + "/results-" + j.id
	r := j.who.sb(j.t, "results", j.id, "-o", dir)
	out := map[string]string{}
	for _, d := range strings.Fields(r.out) {
		out[path.Base(d)] = onDisk(j.t, "laptop", d)
	}
	return out, r
}

// read returns a file of a node's results.
func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTwoNodes(t *testing.T) {
	t.Parallel()
	strange := "odd \xff name\n; $(touch x) 'q' \"d\""
	data := alice.dataset(t, "two-nodes", map[string]string{
		"a.txt":           "first",
		"deep/er/b":       strings.Repeat("0123456789abcdef", 100_000),
		"deep/" + strange: "strange",
		"SHA256SUMS":      fmt.Sprintf("%x  a.txt\n", sha256.Sum256([]byte("first"))),
		"run.sh": `set -eu
cd /sd-container/encrypted/two-nodes
sha256sum deep/er/b | cut -c1-64 >/sd-container/output/sum
ls deep | wc -l >/sd-container/output/names
echo "$SLURMD_NODENAME" >/sd-container/output/node
echo "$GREETING" >/sd-container/output/greeting
mkdir /sd-container/output/tree; ln -s ../node /sd-container/output/tree/link
if echo x 2>/dev/null >a.txt; then exit 9; fi
echo to-stdout; echo to-stderr >&2
for d in "$HOME" /tmp /var/tmp /dev/shm /sd-container/scratch; do echo x >"$d/probe"; done
`})
	j := alice.submit(t, shell(t), data, "-N", "2", "-flags", "--env GREETING='hello world'")
	code := j.wait()
	nodes, r := j.results()
	if code != 0 {
		for _, dir := range nodes {
			t.Errorf("stderr: %s", read(t, dir, "stderr"))
		}
		t.Fatalf("exit code %d", code)
	}
	if len(nodes) != 2 || r.code != 0 {
		t.Fatalf("results: %s", r)
	}
	for node, dir := range nodes {
		for file, want := range map[string]string{
			"node": node + "\n", "greeting": "hello world\n", "stdout": "to-stdout\n", "stderr": "to-stderr\n", "exit_code": "0\n",
			"tree/link": node + "\n",
		} {
			if got := read(t, dir, file); got != want {
				t.Errorf("%s: %s = %q, want %q", node, file, got, want)
			}
		}
		want := must(t, "laptop", "alice", "sha256sum", "data/two-nodes/deep/er/b")[:64]
		if got := strings.TrimSpace(read(t, dir, "sum")); got != want {
			t.Errorf("%s: the container read something else: %s, want %s", node, got, want)
		}
		if !strings.Contains(r.err, node+": completed, exit code 0; sealed and signed by the job (tier B2") {
			t.Errorf("verdict: %s", r.err)
		}
	}
	if again, r := j.results(); r.code != 0 || len(again) != 2 || strings.Count(r.err, "opened before, and left as it is") != 2 {
		t.Errorf("again: %s", r)
	}
	if out := must(t, "keys", "root", "sh", "-c",
		`sealbatch audit verify /etc/sealbatch/data/audit.log --key "$(cat /etc/sealbatch/statement.pub)"`); !strings.Contains(out, "unbroken") {
		t.Errorf("audit: %s", out)
	}
	if left := must(t, "login", "alice", "sh", "-c", "ls "+j.dir+"/nodes/cn1"); strings.Contains(left, "output") ||
		strings.Contains(left, "scratch") {
		t.Errorf("working volumes are left on scratch: %s", left)
	}
}

func TestApplicationFails(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "app-fails", map[string]string{"run.sh": "echo partial >/sd-container/output/p; exit 37\n"})
	j := alice.submit(t, shell(t), data)
	if code := j.wait(); code != 37 {
		t.Errorf("exit code %d, want the application's 37", code)
	}
	nodes, r := j.results()
	for node, dir := range nodes {
		if read(t, dir, "p") != "partial\n" || read(t, dir, "exit_code") != "37\n" {
			t.Errorf("results of %s are not what it wrote", node)
		}
	}
	if len(nodes) != 1 || !strings.Contains(r.err, "exit code 37; sealed and signed") {
		t.Errorf("results: %s", r)
	}
	resultsElsewhere(t, j)
}

// resultsElsewhere opens the results of a job, whose application ended with 37, where nothing is known of it, as in a
// container that is gone after each command.
func resultsElsewhere(t *testing.T, j *job) {
	t.Helper()
	results := func(state, ref string, flags ...string) result {
		args := []string{"env", "XDG_STATE_HOME=/home/alice/" + state, "sealbatch", "results", ref, "-o", "/home/alice/" + state + "/out"}
		return run(t.Context(), "laptop", "alice", nil, append(args, flags...)...)
	}
	const note = "was not submitted from here: its manifest is signed by your own key; the key service confirms it"
	r := results("elsewhere", j.id, "--exit-code")
	if r.code != 37 || !strings.Contains(r.err, note) || !strings.Contains(r.err, "exit code 37; sealed and signed") ||
		read(t, onDisk(t, "laptop", strings.TrimSpace(r.out)), "p") != "partial\n" {
		t.Errorf("by its number: %s", r)
	}
	if r := results("elsewhere", j.id); r.code != 0 || strings.Contains(r.err, note) || !strings.Contains(r.err, "opened before") ||
		!strings.Contains(r.err, "was submitted elsewhere, on ") {
		t.Errorf("again: %s", r)
	}
	if r := results("third", "site:"+j.dir, "--remove"); r.code != 0 || !strings.Contains(r.err, note) ||
		!strings.Contains(r.err, "removed at the site") {
		t.Errorf("by its directory: %s", r)
	}
	if r := results("fourth", j.id); r.code != 11 || !strings.Contains(r.err, "there is no site:"+j.dir) {
		t.Errorf("when it is gone: %s", r)
	}
	if r := results("fourth", "4000000000"); r.code != 2 || !strings.Contains(r.err, "keys to no job of yours of that number") {
		t.Errorf("a job that never was: %s", r)
	}
}

func TestVerificationScripts(t *testing.T) {
	t.Parallel()
	scripts := alice.scratch() + "/checks"
	write(t, "login", "alice", scripts+"/10-first.sh",
		"#!/bin/sh\ntest -e /sd-container/input/run.sh && echo seen >/sd-container/scratch/first\n")
	write(t, "login", "alice", scripts+"/deep/20-second.sh",
		"test -e /sd-container/scratch/first && read -r what <\"${0%/*}/../list.txt\" && [ \"$what\" = first ]\n") // no #!, as HPCS takes it
	write(t, "login", "alice", scripts+"/list.txt", "first\n")
	bad := alice.scratch() + "/bad-checks"
	write(t, "login", "alice", bad+"/10-no.sh", "#!/bin/sh\nexit 3\n")
	data := alice.dataset(t, "scripts", map[string]string{"run.sh": "echo ran >/sd-container/output/ran\n"})
	t.Run("pass", func(t *testing.T) {
		t.Parallel()
		j := alice.submit(t, shell(t), data, "-i", scripts, "-o", scripts)
		if code := j.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("input refused", func(t *testing.T) {
		t.Parallel()
		j := alice.submit(t, shell(t), data, "-i", bad)
		if code := j.wait(); code != 245 {
			t.Errorf("exit code %d, want 245", code)
		}
		nodes, r := j.results()
		if !strings.Contains(r.err, "input check, the application was not started; sealed and signed by the job") {
			t.Errorf("results: %s", r)
		}
		for _, dir := range nodes {
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("the application ran although its input was refused")
			}
		}
	})
	t.Run("output refused", func(t *testing.T) {
		t.Parallel()
		j := alice.submit(t, shell(t), data, "-o", bad)
		if code := j.wait(); code != 246 {
			t.Errorf("exit code %d, want 246", code)
		}
		nodes, r := j.results()
		if len(nodes) != 1 || read(t, nodes["cn1"]+nodes["cn2"], "ran") != "ran\n" {
			t.Errorf("results: %s", r)
		}
	})
	t.Run("wrong sums", func(t *testing.T) {
		t.Parallel()
		wrong := alice.dataset(t, "wrong-sums", map[string]string{"run.sh": "echo ran\n", "SHA256SUMS": fmt.Sprintf("%064d  run.sh\n", 0)})
		if code := alice.submit(t, shell(t), wrong).wait(); code != 245 {
			t.Errorf("exit code %d, want 245", code)
		}
	})
}

func TestDemo(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("../testcluster/demo").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"sealbatch container-prep", "sealbatch data-prep", "sealbatch job-prep",
		"sealed and signed by the job (tier B2", "NNNNNNNN"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the demo does not print %q:\n%s", want, out)
		}
	}
}

// TestSubmitByHand: the script that job-prep leaves is a site's own workflow's to submit: from within another job, of an
// array even, whose variables are not this job's, as a link of a chain. Slurm may choose how many nodes it gets, and the
// seal time is a share of a short limit.
func TestSubmitByHand(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "by-hand", map[string]string{"run.sh": "set | grep SLURM_ARRAY >/sd-container/output/x; true\n"})
	work := alice.scratch() + "/by-hand"
	must(t, "login", "alice", "mkdir", work)
	script := alice.mustSB(t, "job-prep", "-ai", shell(t), "-di", data, "-N", "1-2", "-t", "3", "--workdir", work, "-J", "a/chain",
		"-args", "/sd-container/input/run.sh", "--no-submit", "--output", "by-hand.sbatch")
	if local, site := must(t, "laptop", "alice", "cat", "by-hand.sbatch"), must(t, "login", "alice", "cat", script); local != site ||
		!strings.Contains(site, "--signal=USR1@45\n") || !strings.Contains(site, "--nodes=1-2\n") || !strings.Contains(site, "--job-name=a_chain\n") {
		t.Errorf("the script here and at the site:\n%s\n%s", local, site)
	}
	before := must(t, "login", "alice", "sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true")
	write(t, "login", "alice", work+"/outer", "#!/bin/bash\n"+
		"SLURM_RESTART_COUNT=3 sbatch --parsable --dependency=afterok:"+before+" '"+script+"' >'"+work+"/id'\n")
	must(t, "login", "alice", "sbatch", "--parsable", "--wait", "-o", "/dev/null", "--array=7", work+"/outer")
	id := must(t, "login", "alice", "cat", work+"/id")
	must(t, "login", "alice", "sbatch", "--parsable", "--wait", "-o", "/dev/null", "--dependency=afterany:"+id, "--wrap", "true")
	if log := must(t, "login", "alice", "cat", work+"/a_chain.out"); !strings.Contains(log, "application ended") {
		t.Errorf("the log under HPCS's name:\n%s", log)
	}
	// The record has no job id: the job's directory names it, and the key service knows its number.
	for _, ref := range []string{path.Dir(script), id} {
		r := alice.sb(t, "results", ref, "-o", "/home/alice/by-hand-"+path.Base(ref))
		if r.code != 0 || !strings.Contains(r.err, "sealed and signed") {
			t.Errorf("results %s: %s", ref, r)
		}
	}
}
