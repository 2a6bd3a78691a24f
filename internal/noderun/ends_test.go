package noderun

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/volume"
)

func TestSignalsStopAndSeal(t *testing.T) {
	t.Parallel()
	polite := `trap 'echo stopped > result; exit 5' TERM; echo ready > /host/ready; while :; do sleep 0.01; done`
	stubborn := `trap '' TERM; echo begun > result; echo ready > /host/ready; while :; do sleep 0.01; done`
	for name, c := range map[string]struct {
		app    string
		signal syscall.Signal
		grace  time.Duration
		code   int
		reason string
		result string
	}{
		"limit":           {polite, syscall.SIGUSR1, time.Hour, ExitTimeLimit, "time limit", "stopped\n"},
		"limit stubborn":  {stubborn, syscall.SIGUSR1, time.Millisecond, ExitTimeLimit, "time limit", "begun\n"},
		"cancel":          {polite, syscall.SIGTERM, time.Hour, ExitCancelled, "cancelled", "stopped\n"},
		"cancel stubborn": {stubborn, syscall.SIGTERM, time.Hour, ExitCancelled, "cancelled", "begun\n"},
		"interrupt":       {polite, syscall.SIGINT, time.Hour, ExitCancelled, "cancelled", "stopped\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t, nil, "sh", "-c", c.app)
			j.in.Options.Grace = c.grace
			cmd := j.start()
			defer j.ready().Close()
			check(t, cmd.Process.Signal(c.signal))
			if code := j.wait(cmd); code != c.code {
				t.Fatalf("exit code %d, want %d", code, c.code)
			}
			got, r := j.results(), j.receipt()
			if strings.HasPrefix(c.result, "begun") != (r.Exit == 128+int(syscall.SIGKILL)) {
				t.Errorf("the application ended with %d", r.Exit)
			}
			if got["result"] != c.result || got["exit_code"] != fmt.Sprintln(r.Exit) || r.Reason != c.reason {
				t.Errorf("results %q, receipt %+v", got, r)
			}
			j.missing(jobdir.CipherDirName, jobdir.ScratchName)
			j.leftNothing()
		})
	}
}

func TestKilledSupervisorLeavesOutputsThatOpen(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", `echo `+canary+` > result; exec 9> /host/ready; echo ready >&9; while :; do sleep 0.01; done`)
	cmd := j.start()
	pipe := j.ready()
	defer pipe.Close()
	check(t, cmd.Process.Kill())
	_ = j.wait(cmd)
	// The application held the pipe: it ends with it.
	if rest, err := io.ReadAll(pipe); err != nil || len(rest) != 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	if got := j.recovered(); got["result"] != canary+"\n" {
		t.Errorf("recovered %q", got)
	}
	j.missing(jobdir.ReceiptName, jobdir.SealedName)
	j.leakedNothing(canary)
	for deadline := time.Now().Add(20 * time.Second); processes(t, j.self) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("processes are left")
		}
	}
}

func TestStrayProcessesAreKilledBeforeSealing(t *testing.T) {
	t.Parallel()
	// The application ends once the stray process has written: else that may be killed before.
	j := newJob(t, nil, "sh", "-c", `(trap '' TERM HUP; exec 9> /host/ready; echo ready >&9; while :; do date > stray; done) &
		until test -e stray; do sleep 0.01; done`)
	cmd := j.start()
	pipe := j.ready()
	defer pipe.Close()
	if code := j.wait(cmd); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if rest, err := io.ReadAll(pipe); err != nil || len(rest) != 0 {
		t.Errorf("the stray process lives on: %q, %v", rest, err)
	}
	if _, ok := j.results()["stray"]; !ok {
		t.Error("what it wrote is not among the results")
	}
}

func TestTooLittleTimeLeavesTheCipherDirectory(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", "echo kept > result; truncate -s 100G big; exec 9> /host/ready; echo ready >&9; sleep 1000")
	cmd := j.start()
	defer j.ready().Close()
	check(t, cmd.Process.Signal(syscall.SIGTERM))
	if code := j.wait(cmd); code != ExitCancelled {
		t.Fatalf("exit code %d", code)
	}
	// The file without end, which comes first, took all the time for reading.
	if x := j.receipt().Output.Index; x == nil || x.Unread == 0 || x.Unread > x.Files || x.Torn != 0 {
		t.Fatalf("index: %+v", x)
	}
	r := j.receipt()
	if r.Output.Sealed || r.Output.File != jobdir.CipherDirName || r.Reason != "cancelled" || r.Output.MountLost {
		t.Errorf("receipt: %+v", r)
	}
	v := j.openIndexed()
	if b := readNode(t, v, "result"); b != "kept\n" {
		t.Errorf("result is %q", b)
	}
	if n, ok := v.Lookup(0, "big"); !ok || v.Attr(n).Size != 100<<30 {
		t.Errorf("big: %v", v.Attr(n))
	}
	j.missing(jobdir.SealedName, jobdir.SealedName+jobdir.PartialSuffix, jobdir.ScratchName, jobdir.ReserveName)
	j.leftNothing()
}

// getsInTheWay makes directories where the supervisor wants to write files.
func getsInTheWay(t *testing.T, names ...string) *testJob {
	t.Helper()
	j := newJob(t, nil, "sh", "-c", "echo kept > result; cd /host/nodes/"+testNode+"; mkdir "+strings.Join(names, " "))
	j.private.Flags = []string{"--bind", j.dir + ":/host"}
	return j
}

func TestSealingThatFailsLeavesAnIndex(t *testing.T) {
	t.Parallel()
	j := getsInTheWay(t, jobdir.SealedName+jobdir.PartialSuffix)
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	r := j.receipt()
	if x := r.Output.Index; r.Output.Sealed || r.Reason != "completed" || x == nil || x.Unread != 0 || x.Files == 0 {
		t.Fatalf("receipt: %+v", r)
	}
	v := j.openIndexed()
	if _, err := v.Verify(t.Context(), volume.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	if log := readNode(t, v, logFile); readNode(t, v, "result") != "kept\n" || !strings.Contains(log, "sealing: ") {
		t.Errorf("log: %s", log)
	}
	if got := j.recovered(); got["result"] != "kept\n" {
		t.Errorf("recovered %q", got)
	}
	j.missing(jobdir.SealedName, jobdir.ScratchName, jobdir.ReserveName)
	j.leakedNothing("kept")
}

func TestSealingAndIndexingThatFailLeaveTheCipherDirectory(t *testing.T) {
	t.Parallel()
	j := getsInTheWay(t, jobdir.SealedName+jobdir.PartialSuffix, jobdir.IndexName+jobdir.PartialSuffix)
	if code := j.run(); code != ExitSeal {
		t.Fatalf("exit code %d", code)
	}
	r := j.receipt()
	if r.Output.Sealed || r.Output.Index != nil || r.Output.File != jobdir.CipherDirName || r.Reason != "sealing" || r.Exit != 0 {
		t.Errorf("receipt: %+v", r)
	}
	got := j.recovered()
	if got["result"] != "kept\n" || !strings.Contains(got[logFile], "sealing: ") || !strings.Contains(got[logFile], "index: ") {
		t.Errorf("recovered %q", got)
	}
}

// TestDeadMountIsSealed: when gocryptfs is killed, the supervisor still has the
// key, and what was written before is sealed.
func TestDeadMountIsSealed(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", `echo `+canary+` > result; exec 9> /host/ready; echo ready >&9; while :; do sleep 0.01; done`)
	cmd := j.start()
	defer j.ready().Close()
	if n := killMatching(t, j.path(jobdir.CipherDirName)); n != 1 {
		t.Errorf("%d processes killed", n)
	}
	if code := j.wait(cmd); code != ExitMount { // not 137: it was the supervisor that killed the application
		t.Fatalf("exit code %d", code)
	}
	if r := j.receipt(); !r.Output.Sealed || !r.Output.MountLost || r.Reason != "mounts" {
		t.Errorf("receipt: %+v", r)
	}
	if got := j.results(); got["result"] != canary+"\n" {
		t.Errorf("results %q", got)
	}
	j.missing(jobdir.CipherDirName, jobdir.ScratchName, jobdir.ReserveName)
	j.leftNothing()
	j.leakedNothing(canary)
}

// TestReserveIsThere: while the application runs, room for the receipt is kept.
func TestReserveIsThere(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", "stat -c %s /host/nodes/"+testNode+"/"+jobdir.ReserveName+" > result")
	j.private.Flags = []string{"--bind", j.dir + ":/host"}
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if got := j.results()["result"]; got != fmt.Sprintln(reserveSize) {
		t.Errorf("the room that is kept: %q", got)
	}
	j.missing(jobdir.ReserveName)
}

// TestJobDirExchanged: others can rename what holds the job's directory. The
// results are where the run began, and nothing is in what lies there instead.
func TestJobDirExchanged(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c",
		`exec 9> /host/ready; echo ready >&9; while [ ! -e /host/go ]; do sleep 0.01; done; echo kept > result`)
	cmd := j.start()
	defer j.ready().Close()
	path, moved := j.dir, j.dir+".moved"
	check(t, os.Rename(path, moved))
	check(t, os.Mkdir(path, 0o700))
	check(t, os.WriteFile(j.host+"/go", nil, 0o600))
	if code := j.wait(cmd); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if names, err := os.ReadDir(path); err != nil || len(names) != 0 {
		t.Errorf("in its place there are %v, %v", names, err)
	}
	j.dir = moved
	if got := j.results()["result"]; got != "kept\n" {
		t.Errorf("the result is %q", got)
	}
	j.missing(jobdir.CipherDirName, jobdir.ScratchName, jobdir.ReserveName)
}
