package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// What Slurm, and the key service, make of jobs before they run.

// TestQueue: a job that cannot run is said so at once and leaves nothing; one that waits is said to wait.
func TestQueue(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "queue", simple)
	work := alice.scratch() + "/queue"
	must(t, "login", "alice", "mkdir", "-m", "700", work)
	prep := func(flags ...string) result {
		return alice.sb(t, append([]string{"job-prep", "-ai", shell(t), "-di", data, "--seal-time", "60", "--workdir", work}, flags...)...)
	}
	failed := must(t, "login", "alice", "sbatch", "--parsable", "--output=/dev/null", "--wrap", "exit 3")
	eventually(t, 30*time.Second, "the other job has failed", func() bool {
		return strings.HasPrefix(run(t.Context(), "login", "alice", nil, "squeue", "-h", "-t", "all", "-j", failed, "-o", "%T").out, "FAILED")
	})
	for name, c := range map[string]struct {
		flags []string
		says  string
	}{
		"no such partition":            {[]string{"-p", "nosuch"}, "the site has no partition nosuch; it has standard, small, nouserns"},
		"more nodes than there are":    {[]string{"-N", "3"}, "partition standard has 2 nodes, not 3"},
		"a node that is not there":     {[]string{"-w", "cn9"}, "partition standard has no node cn9"},
		"more time than allowed":       {[]string{"-p", "small", "-t", "5:00:00"}, "more than the 1h0m0s that partition small allows"},
		"a job that failed":            {[]string{"--dependency", "afterok:" + failed}, "job " + failed + " has ended as FAILED"},
		"a job that is not there":      {[]string{"--dependency", "afterok:999999"}, "Slurm does not know job 999999"},
		"refused by sbatch":            {[]string{"--constraint", "nosuch"}, "Invalid feature specification"},
		"refused by sbatch, and kept":  {[]string{"--sbatch", "exclude=cn[1-2]", "-f"}, "Requested node configuration is not available"},
		"never, although it was taken": {[]string{"-N", "3", "--force"}, "Requested node configuration is not available"},
	} {
		if !slices.Contains(c.flags, "-t") {
			c.flags = append(c.flags, "-t", "10")
		}
		r := prep(c.flags...)
		if r.code != 8 || r.out != "" || !strings.Contains(r.err, c.says) || !strings.Contains(r.err, "hint: ") ||
			strings.Contains(r.err, "signal") {
			t.Errorf("%s: want exit 8 and %q: %s", name, c.says, r)
		}
	}
	if left := must(t, "login", "alice", "ls", work); left != "" {
		t.Errorf("jobs that were refused left %s", left)
	}

	// One that waits for ever because that was wanted. Slurm looks at it when it has looked at those before it.
	r := prep("-p", "nouserns", "-t", "5:00:00", "--force")
	id := strings.TrimSpace(r.out)
	if r.code != 0 || !strings.Contains(r.err, "job "+id+": PENDING (P") {
		t.Fatalf("with --force: %s", r)
	}
	r = alice.sb(t, "job-prep", "--continue", id, "-f")
	told(t, r, 8, "it will not start as it was submitted", "scancel "+id+" cancels it, then sealbatch job-prep --continue")
	told(t, alice.sb(t, "job-prep", "--continue", id, "-args", "x"), 2, "--arguments has no effect beside --continue", "as it was prepared")
	must(t, "login", "alice", "scancel", id)
	r = alice.sb(t, "job-prep", "--continue", id, "-f")
	told(t, r, 9, "it was cancelled before it began: nothing ran", "is removed")
	if left := must(t, "login", "alice", "ls", work); left != "" {
		t.Errorf("the cancelled job left %s", left)
	}

	// What the key service knows.
	for _, flags := range [][]string{{"-u", "bob", "-c", "*"}, {"-u", "alice", "-c", "cn1"}} {
		data = alice.dataset(t, "queue-"+flags[1], simple, flags...)
		if r := prep("-w", "cn2", "-t", "10"); r.code != 6 || !strings.Contains(r.err, "its policy does not name ") {
			t.Errorf("a policy of %q: %s", flags, r)
		}
	}
	if r := prep("-t", "10", "--sbatch", "hold"); !strings.Contains(r.err, "choose nodes with --nodelist") ||
		!strings.Contains(r.err, "PENDING (JobHeldUser): it is held as its submitter wished") {
		t.Errorf("a held job on any node: %s", r)
	} else {
		must(t, "login", "alice", "scancel", strings.TrimSpace(r.out))
	}
}
