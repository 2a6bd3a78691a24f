package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// endless writes as it goes, so that there is something to lose, and never ends.
const endless = `trap 'echo stopped >>/sd-container/output/log; exit 0' TERM
i=0
while :; do i=$((i+1)); echo "line $i of MARK" >>/sd-container/output/log; sleep 0.1; done
`

// linuxproc says that Slurm signals every process of a job, not the supervisors
// alone: gocryptfs and the server of the image die before the supervisor can act.
var linuxproc = os.Getenv("SEALBATCH_PROCTRACK") == "linuxproc"

// began is before any job: what is older on a host, no job has written.
var began = time.Now()

var exitRE = regexp.MustCompile(`exit code [0-9]+`)

// startEndless submits the endless application on one node and returns when it
// has written something.
func startEndless(t *testing.T, mark string, flags ...string) (*job, string) {
	t.Helper()
	data := alice.dataset(t, "endless-"+mark, map[string]string{"run.sh": strings.ReplaceAll(endless, "MARK", mark)})
	return startJob(t, data, flags...)
}

// startJob submits a dataset's application on one node and returns when it has
// written something.
func startJob(t *testing.T, data string, flags ...string) (*job, string) {
	t.Helper()
	j := alice.submit(t, shell(t), data, flags...)
	node := ""
	eventually(t, 60*time.Second, "the job runs", func() bool {
		node = run(t.Context(), "login", "alice", nil, "squeue", "-h", "-t", "R", "-j", j.id, "-o", "%N").out
		node = strings.TrimSpace(node)
		return node != ""
	})
	out := filepath.Join(onDisk(t, "login", j.dir), "nodes", node, "output")
	eventually(t, 60*time.Second, "the application has written", func() bool {
		entries, err := os.ReadDir(out)
		if err != nil {
			return false
		}
		for _, e := range entries {
			if st, err := e.Info(); err == nil && st.Size() > 500 && e.Name() != "gocryptfs.diriv" {
				return true
			}
		}
		return false
	})
	return j, node
}

// nothingLeft fails if a process, a mount or a node-local directory of the job
// is still on the node once it has ended.
func nothingLeft(t *testing.T, j *job, node, mark string) {
	t.Helper()
	eventually(t, 30*time.Second, "no process of job "+j.id+" on "+node, func() bool {
		out := run(t.Context(), node, "root", nil, "sh", "-c",
			`for p in /proc/[0-9]*; do grep -qsz "^SLURM_JOB_ID=`+j.id+`$" "$p/environ" && cat "$p/comm"; done; true`).out
		return strings.TrimSpace(out) == ""
	})
	noDeadMounts(t, j.who, node)
	h := &haystack{t: t, since: began, needles: []needle{{"the application's output", []byte(" of " + mark)}}}
	for _, f := range h.files(node) {
		t.Errorf("plaintext is left: %s in %s", f.what, f.where)
	}
}

// opened checks that the results open and hold what the application wrote.
func opened(t *testing.T, j *job, node, mark, verdict string) string {
	t.Helper()
	nodes, r := j.results()
	if linuxproc { // the application may have lost its image or its output first
		r.err, verdict = exitRE.ReplaceAllString(r.err, "exit code N"), exitRE.ReplaceAllString(verdict, "exit code N")
	}
	if r.code != 0 || len(nodes) != 1 || !strings.Contains(r.err, verdict) {
		t.Fatalf("results: %s, want %q", r, verdict)
	}
	log := read(t, nodes[node], "log")
	if !strings.HasPrefix(log, "line 1 of "+mark+"\nline 2 of ") {
		t.Errorf("the outputs hold %.100q", log)
	}
	return log
}

func TestScancel(t *testing.T) {
	t.Parallel()
	j, node := startEndless(t, "scancelled")
	must(t, "login", "alice", "scancel", j.id)
	if code := j.wait(); code == 0 {
		t.Error("a cancelled job ended with 0")
	}
	nothingLeft(t, j, node, "scancelled")
	log := opened(t, j, node, "scancelled", "cancelled, exit code 0; sealed and signed by the job")
	if !linuxproc && !strings.HasSuffix(log, "stopped\n") {
		t.Errorf("the application was not asked to end first: %q", log[max(0, len(log)-60):])
	}
}

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	// Slurm counts in minutes and may signal up to a minute early.
	j, node := startEndless(t, "timed-out", "-t", "00:02:00", "--seal-time", "65")
	if code := j.wait(); code != 248 {
		t.Errorf("exit code %d, want 248", code)
	}
	nothingLeft(t, j, node, "timed-out")
	opened(t, j, node, "timed-out", "time limit, exit code 0; sealed and signed by the job")
}

func TestKill(t *testing.T) {
	t.Parallel()
	for name, pattern := range map[string]string{"supervisor": "node-run --self .*%s ", "gocryptfs": "gocryptfs -fg .*%s/nodes/.*/output"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mark := "killed-" + name
			j, node := startEndless(t, mark)
			must(t, node, "root", "pkill", "-KILL", "-f", fmt.Sprintf(pattern, j.dir))
			if code := j.wait(); code == 0 {
				t.Error("a killed job ended with 0")
			}
			nothingLeft(t, j, node, mark)
			want := "killed before it could seal; what it had written is recovered"
			if name == "gocryptfs" {
				want = "sealed and signed by the job"
			}
			opened(t, j, node, mark, want)
		})
	}
}
