package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// What Slurm does to jobs.

// stubborn writes and cannot be asked to stop.
const stubborn = `trap '' TERM INT HUP USR1
if [ -n "$SLURM_RESTART_COUNT" ]; then
  echo "line 1 of MARK" >/sd-container/output/log; echo "line 2 of MARK" >>/sd-container/output/log; exit 0
fi
i=0
while :; do i=$((i+1)); echo "line $i of MARK" >>/sd-container/output/log; sleep 0.1; done
`

func startStubborn(t *testing.T, mark string, flags ...string) (*job, string) {
	t.Helper()
	data := alice.dataset(t, "stubborn-"+mark, map[string]string{"run.sh": strings.ReplaceAll(stubborn, "MARK", mark)})
	return startJob(t, data, flags...)
}

func TestEndBySignal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		scancel []string
		code    int
		verdict string
	}{
		"kill": {[]string{"--signal=KILL"}, 249, "cancelled, exit code 137; sealed and signed by the job"},
		// Slurm's srun takes that for an order to kill everything at once.
		"term to all":   {[]string{"--signal=TERM", "--full"}, 137, "killed before it could seal"},
		"notice to all": {[]string{"--signal=USR1"}, 248, "time limit, exit code 137; sealed and signed by the job"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mark := "ended-by-" + strings.ReplaceAll(name, " ", "-")
			j, node := startStubborn(t, mark)
			// To the batch shell alone it says nothing: the job goes on.
			must(t, "login", "alice", "scancel", "--batch", "--signal=TERM", j.id)
			must(t, "login", "alice", append(append([]string{"scancel"}, c.scancel...), j.id)...)
			if code := j.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			nothingLeft(t, j, node, mark)
			opened(t, j, node, mark, c.verdict)
		})
	}
}

func TestEndByRequeue(t *testing.T) {
	t.Parallel()
	const mark = "requeued"
	j, node := startStubborn(t, mark, "-N", "1", "--nodelist", "cn1")
	if r := run(t.Context(), "login", "alice", nil, "scontrol", "requeue", j.id); r.code == 0 {
		t.Errorf("a job that must not be requeued was: %s", r)
	}
	must(t, "login", "root", "scontrol", "update", "JobId="+j.id, "Requeue=1")
	must(t, "login", "root", "scontrol", "requeue", j.id)
	// Slurm puts the second start off for two minutes.
	eventually(t, 60*time.Second, "the job waits again", func() bool {
		return run(t.Context(), "login", "root", nil, "squeue", "-h", "-j", j.id, "-o", "%T").out == "PENDING\n"
	})
	must(t, "login", "root", "scontrol", "update", "JobId="+j.id, "StartTime=now")
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	nothingLeft(t, j, node, mark)
	nodes, r := j.results()
	if r.code != 0 || len(nodes) != 2 || !strings.Contains(r.err, "cn1: cancelled, exit code 137; sealed and signed") ||
		!strings.Contains(r.err, "cn1.r1: completed, exit code 0; sealed and signed") {
		t.Fatalf("results: %s", r)
	}
	for _, dir := range nodes {
		if log := read(t, dir, "log"); !strings.HasPrefix(log, "line 1 of "+mark+"\nline 2 of ") {
			t.Errorf("the outputs hold %.100q", log)
		}
	}
	// A second run is a release of its own, and no more than one.
	for restart := range 2 {
		if n := must(t, "keys", "root", "grep", "-c", fmt.Sprintf(`"outcome":"released".*"id":%s,"array_task":-1,"restart":%d}`, j.id, restart),
			"/etc/sealbatch/data/audit.log"); n != "1" {
			t.Errorf("%s releases for restart %d, want 1", n, restart)
		}
	}
	if left := must(t, "login", "alice", "sh", "-c",
		"ls -d "+j.dir+"/nodes/*/scratch "+j.dir+"/nodes/*/output 2>/dev/null; true"); left != "" {
		t.Errorf("left on scratch: %s", left)
	}
}

func TestEndOfAHeldJob(t *testing.T) {
	t.Parallel()
	data := alice.dataset(t, "held", map[string]string{"run.sh": "echo ran >/sd-container/output/ran\n"})
	j := alice.submit(t, shell(t), data, "--sbatch", "hold")
	eventually(t, 60*time.Second, "the job is held", func() bool {
		return strings.Contains(run(t.Context(), "login", "alice", nil, "squeue", "-h", "-j", j.id, "-o", "%r").out, "JobHeldUser")
	})
	if _, r := j.results(); r.code == 0 || !strings.Contains(r.err, "has not ended") {
		t.Errorf("results of a held job: %s", r)
	}
	must(t, "login", "alice", "scontrol", "release", j.id)
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	nodes, r := j.results()
	if len(nodes) != 1 || r.code != 0 {
		t.Errorf("results: %s", r)
	}
}

// clusterDo runs a command of the test cluster itself.
func clusterDo(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), cluster, args...).CombinedOutput(); err != nil {
		t.Fatalf("cluster %q: %v\n%s", args, err, out)
	}
}

// TestEndsOfTheNode is not parallel: it takes a node away from everybody.
func TestEndsOfTheNode(t *testing.T) {
	data := alice.dataset(t, "restarts", map[string]string{
		"run.sh": "yes started | head -n 200 >/sd-container/output/log; while [ ! -e /sd-container/output/go ]; do " +
			"sleep 0.1; i=$((i+1)); [ $i -lt 80 ] || exit 0; done\n"})
	through, _ := startJob(t, data, "--nodelist", "cn1")
	lost, node := startEndless(t, "rebooted", "--nodelist", "cn2")
	clusterDo(t, "restart", "login", "slurmctld")
	since := time.Now() // the jobs have shown themselves again
	clusterDo(t, "restart", "cn1", "slurmd")
	noPlaceForPrograms(t)
	// Slurm waits for jobs younger than that to begin, and looks only once.
	eventually(t, time.Minute, "the job is older than BatchStartTimeout and ten seconds",
		func() bool { return time.Since(since) > 16*time.Second })
	clusterDo(t, "reboot", "cn2")
	if code := lost.wait(); code != 9 {
		t.Errorf("exit code %d of a job whose node went down, want 9", code)
	}
	if !strings.Contains(lost.log.String(), "NODE_FAIL: a node of it failed or was restarted; submit the job again") {
		t.Errorf("the user is not told why:\n%s", lost.log)
	}
	lost.nodeFile("scratch") // nobody has its key; results clears it away
	opened(t, lost, node, "rebooted", "killed before it could seal")
	lost.missing("scratch")
	if code := through.wait(); code != 0 {
		t.Errorf("exit code %d of a job on which only Slurm's daemons were restarted", code)
	}
	nodes, r := through.results()
	if len(nodes) != 1 || !strings.Contains(r.err, "completed, exit code 0; sealed and signed") {
		t.Errorf("results: %s", r)
	}
}

// noPlaceForPrograms: directories of the node in which the programs cannot be
// held or run are passed over; without any, the user learns what to do. cn2 stays
// so until it is booted again.
func noPlaceForPrograms(t *testing.T) {
	t.Helper()
	data := alice.dataset(t, "no-place", map[string]string{"run.sh": "echo ran >/sd-container/output/ran\n"})
	must(t, "cn2", "root", "sh", "-c", `mount -o remount,noexec /tmp && mount -o remount,size=64k /dev/shm &&
		mount -t tmpfs -o mode=1777,noexec var-tmp /var/tmp`)
	j := alice.submit(t, shell(t), data, "--nodelist", "cn2")
	if code := j.wait(); code != 240 {
		t.Errorf("exit code %d, want 240", code)
	}
	for _, want := range []string{"/tmp: programs cannot be run there", "/dev/shm: the programs cannot be copied there",
		"/var/tmp: programs cannot be run there", "[supercomputer] setup"} {
		if !strings.Contains(j.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, j.log)
		}
	}
	// What lies in wait under our names is nobody's business.
	must(t, "login", "alice", "sh", "-c", "mkdir -p ~/precious && echo x >~/precious/sealbatch")
	must(t, "cn2", "mallory", "sh", "-c",
		`cd /dev/shm && ln -s /home/alice/precious sealbatch.aaaaaaaaaa && mkdir -m 777 sealbatch.bbbbbbbbbb &&
		mkfifo sealbatch.bbbbbbbbbb/lock && mkfifo sealbatch.cccccccccc`)
	must(t, "cn2", "root", "sh", "-c", "mount -o remount,size=50% /dev/shm")
	j = alice.submit(t, shell(t), data, "--nodelist", "cn2")
	if code := j.wait(); code != 0 {
		t.Errorf("exit code %d although programs can be run in /dev/shm", code)
	}
	must(t, "login", "alice", "cat", "precious/sealbatch")
	if left := must(t, "cn2", "root", "sh", "-c", "ls -d /dev/shm/sealbatch.* /var/tmp/sealbatch.* 2>/dev/null | tr '\\n' ' '"); left !=
		"/dev/shm/sealbatch.aaaaaaaaaa /dev/shm/sealbatch.bbbbbbbbbb /dev/shm/sealbatch.cccccccccc" {
		t.Errorf("in node-local directories there is %s", left)
	}
}
