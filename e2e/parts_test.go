package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Results that are not whole, or none: what can be had is had, and the rest is told of.

// awkward writes what is hard to keep, and ends with 42: an encrypted path that is longer than 4095 bytes, what its
// owner may not read, a pipe, and a link that leads out.
const awkward = `cd /sd-container/output
name=$(printf '%0100d' 0)
i=0; while [ $i -lt 30 ]; do mkdir $name && cd $name; i=$((i+1)); done
echo "deep of MARK" >leaf
cd /sd-container/output
mkdir closed; echo "closed of MARK" >closed/file; chmod 0 closed/file closed
mkfifo pipe; ln -s /etc/passwd out; touch -d 2300-01-01T00:00:00Z far
echo "to stdout of MARK"
exit 42
`

func TestAwkwardOutputs(t *testing.T) {
	t.Parallel()
	const mark = "awkward"
	data := alice.dataset(t, mark, map[string]string{"run.sh": strings.ReplaceAll(awkward, "MARK", mark)})
	j := alice.submit(t, shell(t), data)
	if code := j.wait(); code != 42 {
		t.Errorf("exit code %d", code)
	}
	if log := j.log.String(); !strings.Contains(log, "application: exit code 42, ") || strings.Contains(log, "application: ok") {
		t.Error("the log does not say how the application ended")
	}
	nodes, r := j.results()
	if r.code != 0 || len(nodes) != 1 || !strings.Contains(r.err, "sealed and signed") {
		t.Fatalf("results: %s", r)
	}
	for _, want := range []string{": not kept: pipe: not a regular file", ": a link that leads out of the results: out: /etc/passwd"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("results lack %q: %s", want, r)
		}
	}
	for _, dir := range nodes {
		if got := read(t, dir, "closed/file"); got != "closed of "+mark+"\n" {
			t.Errorf("what was closed: %q", got)
		}
		if got := read(t, dir, strings.Repeat(strings.Repeat("0", 100)+"/", 30)+"leaf"); got != "deep of "+mark+"\n" {
			t.Errorf("what lies deep: %q", got)
		}
		if st, err := os.Stat(filepath.Join(dir, "far")); err != nil || st.ModTime().Unix() != 10413792000 {
			t.Errorf("a time of the year 2300: %v, %v", st.ModTime(), err)
		}
		if got := read(t, filepath.Dir(dir), filepath.Base(dir)+".exit_code"); got != "42\n" {
			t.Errorf("exit code beside it: %q", got)
		}
		if got := read(t, filepath.Dir(dir), filepath.Base(dir)+".stdout"); got != "to stdout of "+mark+"\n" {
			t.Errorf("standard output beside it: %q", got)
		}
	}
	if r := alice.sb(t, "results", j.id, "-o", "/home/alice/results-"+j.id, "--exit-code"); r.code != 42 {
		t.Errorf("results --exit-code: %s", r)
	}
}

// TestKilledWithAClosedFile: a file that its owner may not read does not keep a killed job's results from them; what
// SFTP cannot reach is named, although the site's server leaves it out of its listing.
func TestKilledWithAClosedFile(t *testing.T) {
	t.Parallel()
	const mark = "killed-closed"
	data := alice.dataset(t, mark, map[string]string{"run.sh": `cd /sd-container/output
mkdir closed; echo "kept of ` + mark + `" >closed/file; chmod 0 closed/file closed
name=$(printf '%0100d' 0)
i=0; while [ $i -lt 30 ]; do mkdir $name && cd $name; i=$((i+1)); done
echo "deep of ` + mark + `" >leaf; cd /sd-container/output
yes "more of ` + mark + `" | head -n 1000 >open; sleep 1000
`})
	j, node := startJob(t, data)
	must(t, node, "root", "pkill", "-KILL", "-f", "node-run --self .*"+j.dir+" ")
	j.wait()
	nodes, r := j.results()
	for _, want := range []string{"they have been made readable", "killed before it could seal",
		": not kept: " + strings.Repeat("0", 100) + "/",
		"its encrypted path at the site is so long"} {
		if r.code != 10 || len(nodes) != 1 || !strings.Contains(r.err, want) {
			t.Fatalf("results: %s", r)
		}
	}
	if got := read(t, nodes[node], "closed/file"); got != "kept of "+mark+"\n" {
		t.Errorf("what was closed: %q", got)
	}
	if st, err := os.Stat(filepath.Join(nodes[node], "open")); err != nil || st.Size() == 0 {
		t.Errorf("what was open: %v", err)
	}
}

// TestEndedWithoutOutput: results say why a job has left nothing, with an exit code of its own.
func TestEndedWithoutOutput(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "no-output", simple, "-u", "bob", "-c", "*")
	j := alice.submit(t, shell(t), data, "--force")
	if code := j.wait(); code != exitKey {
		t.Errorf("exit code %d", code)
	}
	_, r := j.results()
	for _, want := range []string{"job " + j.id + " has ended", "exit code 242", "a policy refused a key", "key refused"} {
		if r.code != 11 || !strings.Contains(r.err, want) {
			t.Errorf("results lack %q: %s", want, r)
		}
	}
	held := alice.submit(t, shell(t), data, "--sbatch", "hold", "--force")
	if r := alice.sb(t, "results", held.id); r.code != 9 || !strings.Contains(r.err, "has not ended") {
		t.Errorf("results of a job that waits: %s", r)
	}
	must(t, "login", "alice", "scancel", held.id)
	held.wait()
}
