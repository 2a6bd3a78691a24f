package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// smallDisk is held by whoever fills /scratch/small, which has 28 MiB.
var smallDisk sync.Mutex

// onSmallDisk submits a job that works on /scratch/small.
func onSmallDisk(t *testing.T, name, script string) *job {
	t.Helper()
	data := alice.dataset(t, name, map[string]string{"run.sh": script})
	image := shell(t)
	smallDisk.Lock()
	t.Cleanup(smallDisk.Unlock)
	t.Cleanup(func() {
		if r := run(context.Background(), "login", "root", nil, "sh", "-c", "rm -rf /scratch/small/*"); r.code != 0 {
			t.Error(r)
		}
	})
	return alice.submit(t, image, data, "--workdir", "/scratch/small")
}

// nodeFile is where this machine finds a file of the job's only node.
func (j *job) nodeFile(name string) string {
	j.t.Helper()
	found, err := filepath.Glob(filepath.Join(onDisk(j.t, "login", j.dir), "nodes", "*", name))
	if err != nil || len(found) != 1 {
		j.t.Fatalf("%s: %v, %v", name, found, err)
	}
	return found[0]
}

// missing checks that none of a node's files has a name.
func (j *job) missing(names ...string) {
	j.t.Helper()
	for _, name := range names {
		if found, err := filepath.Glob(filepath.Join(onDisk(j.t, "login", j.dir), "nodes", "*", name)); err != nil || len(found) > 0 {
			j.t.Errorf("%s is there: %v", name, err)
		}
	}
}

// largest is the largest file of the only node's cipher directory.
func (j *job) largest() (path string, size int64) {
	j.t.Helper()
	list, err := os.ReadDir(j.nodeFile("output"))
	if err != nil {
		j.t.Fatal(err)
	}
	for _, e := range list {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && st.Size() > size {
			path, size = filepath.Join(j.nodeFile("output"), e.Name()), st.Size()
		}
	}
	return path, size
}

// TestOutputsThatFitOnlyOnce: there is no room for a sealed copy, so the outputs
// stay where they are, with a signed index. Whoever alters them is found out.
func TestOutputsThatFitOnlyOnce(t *testing.T) {
	t.Parallel()
	j := onSmallDisk(t, "fits-once", `set -e
cd /sd-container/output
free=$(df -k --output=avail . | tail -n 1)
dd if=/dev/zero bs=1024 count=$((free * 7 / 10)) 2>/dev/null | tr '\0' x >big
echo small >small
mkdir d; ln -s ../small d/link
`)
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	j.missing("results.sealed*", "scratch", "reserve")
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 || !strings.Contains(r.err, "completed, exit code 0; indexed and signed by the job (tier B2") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		if big := read(t, dir, "big"); len(big) < 1<<20 || strings.Trim(big, "x") != "" || read(t, dir, "d/link") != "small\n" {
			t.Errorf("big has %d bytes", len(big))
		}
	}

	// A genuine block of the same file, from elsewhere in it.
	big, _ := j.largest()
	b, err := os.ReadFile(big)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[18:18+4128], b[18+4128:])
	if err := os.WriteFile(big, b, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "laptop", "alice", "rm", "-rf", "results-"+j.id)
	if nodes, r := j.results(); len(nodes) != 0 || r.code != 7 || !strings.Contains(r.err, "damaged: big") ||
		!strings.Contains(r.err, "--recover") {
		t.Errorf("altered: %s", r)
	}
	r = alice.sb(t, "results", j.id, "-o", "/home/alice/rest-"+j.id, "--recover")
	if r.code != 7 || !strings.Contains(r.err, "indexed and signed by the job") || !strings.Contains(r.err, "damaged: big") {
		t.Errorf("--recover: %s", r)
	}
	dir := onDisk(t, "laptop", strings.TrimSpace(r.out))
	if _, err := os.Lstat(filepath.Join(dir, "big")); !os.IsNotExist(err) || read(t, dir, "small") != "small\n" {
		t.Errorf("the altered file was opened (%v), or the rest not", err)
	}
}

// TestOutputsFillTheDisk: an application that writes until nothing more fits
// leaves what it could write, vouched for.
func TestOutputsFillTheDisk(t *testing.T) {
	t.Parallel()
	j := onSmallDisk(t, "fills",
		"echo before >/sd-container/output/before\ndd if=/dev/zero of=/sd-container/output/fill bs=64k 2>/dev/null && exit 1\nexit 9\n")
	if code := j.wait(); code != 9 {
		t.Errorf("exit code %d", code)
	}
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 || !strings.Contains(r.err, "completed, exit code 9; indexed and signed by the job") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		fill := read(t, dir, "fill")
		if read(t, dir, "before") != "before\n" || len(fill) < 1<<20 || strings.Trim(fill, "\x00") != "" {
			t.Errorf("fill has %d bytes", len(fill))
		}
	}
}

// TestNoTimeToSeal: a supervisor that believes to be slow, and to need more time
// for its end than there is, leaves an index by id and size, and says so.
func TestNoTimeToSeal(t *testing.T) {
	t.Parallel()
	program := installed(t, "laptop", weakened(t,
		weakness{"internal/noderun/pace.go", "sealRate  = 150e6", "sealRate  = 1"},
		weakness{"internal/noderun/pace.go", "walkBase  = time.Second", "walkBase  = time.Hour"})) + "/sealbatch"
	data := alice.dataset(t, "no-time", map[string]string{"run.sh": "seq 10000 >/sd-container/output/numbers\n"})
	j := alice.submitWith(t, program, shell(t), data)
	if code := j.wait(); code != 247 {
		t.Errorf("exit code %d", code)
	}
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 ||
		!strings.Contains(r.err, "sealing, exit code 0; indexed and signed by the job, which had no time to read") ||
		!strings.Contains(r.err, "could be an older version: numbers\n") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		if n := read(t, dir, "numbers"); len(n) != 48894 {
			t.Errorf("numbers has %d bytes", len(n))
		}
	}
	// Another file in its place is found all the same.
	path, _ := j.largest()
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 18+len("numbers"))), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "laptop", "alice", "rm", "-rf", "results-"+j.id)
	if nodes, r := j.results(); len(nodes) != 0 || r.code != 7 || !strings.Contains(r.err, "damaged: numbers") {
		t.Errorf("exchanged: %s", r)
	}
}

// TestRecoverWhileItRuns: while a job runs, its results are kept from being
// taken for all, unless one asks for what there is.
func TestRecoverWhileItRuns(t *testing.T) {
	t.Parallel()
	j, node := startEndless(t, "running")
	if nodes, r := j.results(); len(nodes) != 0 || r.code != 9 || !strings.Contains(r.err, "has not ended") ||
		!strings.Contains(r.err, "--recover") {
		t.Errorf("results of a running job: %s", r)
	}
	r := alice.sb(t, "results", j.id, "-o", "/home/alice/now-"+j.id, "--recover")
	if !strings.Contains(r.err, node+": still running; what it has written so far is recovered") {
		t.Fatalf("--recover: %s", r)
	}
	if log := read(t, onDisk(t, "laptop", strings.TrimSpace(r.out)), "log"); !strings.HasPrefix(log, "line 1 of running\n") {
		t.Errorf("the log holds %.100q", log)
	}
	must(t, "login", "alice", "scancel", j.id)
	j.wait()
	opened(t, j, node, "running", "sealed and signed by the job")
}

// TestResultsKilled: results that is killed while it fetches leaves nothing
// under a final name, and goes on when it is run again.
func TestResultsKilled(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "results-killed",
		map[string]string{"run.sh": "dd if=/dev/zero of=/sd-container/output/z bs=1M count=64 2>/dev/null\n"})
	j := alice.submit(t, shell(t), data)
	if code := j.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	out := "/home/alice/results-" + j.id
	killed := 0
	for _, delay := range []string{"0.1", "0.2", "0.3", "0.4", "0.6"} {
		r := run(t.Context(), "laptop", "alice", nil, "timeout", "-s", "KILL", delay, "sealbatch", "results", j.id, "-o", out)
		if r.code == 0 {
			break
		}
		killed++
		if ls := must(t, "laptop", "alice", "sh", "-c", "ls "+out+" 2>/dev/null || true"); ls != "" {
			// Killed between the directory's name and the end: it is whole.
			if n := must(t, "laptop", "alice", "sh", "-c", "cat "+out+"/*/z | wc -c"); n != "67108864" {
				t.Fatalf("after %s s: %q, z has %s bytes", delay, ls, n)
			}
		}
	}
	if killed == 0 {
		t.Error("it was never killed")
	}
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 {
		t.Fatalf("in the end: %s", r)
	}
	for _, dir := range nodes {
		if len(read(t, dir, "z")) != 64<<20 {
			t.Error("the results are not whole")
		}
	}
	if left := must(t, "laptop", "alice", "sh", "-c", "ls -A "+out+" | grep fetch || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}
