package noderun

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// canary is what must never be seen outside of the volumes.
const canary = "canary-7c1d"

func TestRunSealsTheResults(t *testing.T) {
	t.Parallel()
	j := newJob(t, map[string]string{"first file": canary, "SHA256SUMS": sum(canary) + "  first file\n"}, "sh", "-c", `
		cat "/sd-container/input/first file" > result
		cat "/sd-container/encrypted/$1"/name > second
		echo `+canary+`; echo err >&2
		echo "$OMP_NUM_THREADS,$SLURM_JOB_ID,$EDITOR,$SLURM_JWT,$MINE,$HOME,$(pwd)" > environment
		for d in / /tmp /var/tmp "$HOME" /dev/shm /sd-container /sd-container/encrypted /sd-container/input \
			/sd-container/output /sd-container/scratch /sd-container/tools; do
			{ echo `+canary+` > $d/`+canary+`; } 2> /dev/null && echo $d
		done > writable
		mkdir d; touch d/sealed; chmod 0 d/sealed d
		mkfifo pipe`, "sh", "a,b:c d")
	// What an earlier job sealed is an input like any other.
	j.m.Volumes = append(j.m.Volumes, j.seal(manifest.KindResults, "a,b:c d", map[string]string{"name": "second data set"}))
	j.private.Flags = append(j.private.Flags, "--env", "MINE=own=1, 2")
	j.script(jobdir.InputStage, "10-first", `echo "input script sees $(ls /sd-container/encrypted)"`)
	j.script(jobdir.OutputStage, "90-last", `[ "$(cat /sd-container/output/result)" = `+canary+` ] && echo "output script is content"`)
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	got := j.results()
	for name, want := range map[string]string{
		"result": canary, "second": "second data set", "stdout": canary + "\n", "stderr": "err\n", "exit_code": "0\n",
		"environment": "3,42,,,own=1, 2,/sd-container/home,/sd-container/output\n", "d/sealed": "",
		"writable": "/tmp\n/var/tmp\n/sd-container/home\n/dev/shm\n/sd-container/output\n/sd-container/scratch\n",
	} {
		if v, ok := got[name]; v != want || !ok {
			t.Errorf("%s holds %q, want %q", name, v, want)
		}
	}
	for _, want := range []string{"input script sees a,b:c d\ninput\n", "output script is content\n", "1 sockets and pipes were removed and 2 entries made readable"} {
		if !strings.Contains(got[logFile], want) {
			t.Errorf("%s lacks %q: %s", logFile, want, got[logFile])
		}
	}
	r := j.receipt()
	if r.Reason != "completed" || r.Exit != 0 || r.Run != j.m.Run || r.Tier != manifest.TierC || r.Node != testNode || r.Output.Until != "scratch" {
		t.Errorf("receipt: %+v", r)
	}
	j.missing(jobdir.CipherDirName, jobdir.ScratchName, jobdir.SealedName+jobdir.PartialSuffix)
	j.leftNothing()
	j.leakedNothing(canary, "first file", "a,b:c d", "10-first")
}

// leftNothing checks that the run's own directory and processes are gone.
func (j *testJob) leftNothing() {
	j.t.Helper()
	if _, err := os.Lstat(j.self); !os.IsNotExist(err) {
		j.t.Errorf("the run's own directory is still there (%v)", err)
	}
	if n := processes(j.t, j.self); n != 0 {
		j.t.Errorf("%d processes are left", n)
	}
}

// leakedNothing checks that words stand neither in the job log nor, as names or
// content, in what lies on the shared storage; and that it would find them.
func (j *testJob) leakedNothing(words ...string) {
	j.t.Helper()
	nodes := filepath.Join(j.dir, "nodes")
	check(j.t, os.WriteFile(filepath.Join(nodes, "planted"), []byte("a planted word"), 0o600))
	seen := j.log.Bytes()
	for name, data := range readTree(j.t, nodes) {
		seen = append(append(seen, name...), data...)
	}
	if !bytes.Contains(seen, []byte("a planted word")) {
		j.t.Error("the search does not find what is there")
	}
	for _, w := range words {
		if bytes.Contains(seen, []byte(w)) {
			j.t.Errorf("%q leaked", w)
		}
	}
}

func TestApplicationFailureKeepsItsCode(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", "echo partial > result; exit 3")
	j.script(jobdir.OutputStage, "check", "exit 1") // its failure does not hide the application's
	if code := j.run(); code != 3 {
		t.Fatalf("exit code %d", code)
	}
	got, r := j.results(), j.receipt()
	if got["result"] != "partial\n" || got["exit_code"] != "3\n" || r.Exit != 3 || r.Reason != "output script" {
		t.Errorf("results %q, receipt %+v", got, r)
	}
	j.leftNothing()
}

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
	j := newJob(t, nil, "sh", "-c", `(trap '' TERM HUP; exec 9> /host/ready; echo ready >&9; while :; do date > stray; done) & until test -e stray; do sleep 0.01; done`)
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
	if r := j.receipt(); r.Output.Sealed || r.Output.Index != nil || r.Output.File != jobdir.CipherDirName || r.Reason != "sealing" || r.Exit != 0 {
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

func TestScriptsThatFail(t *testing.T) {
	t.Parallel()
	t.Run("input", func(t *testing.T) {
		t.Parallel()
		j := newJob(t, nil, "sh", "-c", "echo ran > result")
		j.script(jobdir.InputStage, "1", "echo one")
		j.script(jobdir.InputStage, "2", "echo two; exit 4")
		j.script(jobdir.InputStage, "3", "echo three")
		if code := j.run(); code != ExitInput {
			t.Fatalf("exit code %d", code)
		}
		got, r := j.results(), j.receipt()
		if _, ran := got["result"]; ran || r.Exit != neverRan || r.Reason != "input check" {
			t.Errorf("results %q, receipt %+v", got, r)
		}
		if log := got[logFile]; !strings.Contains(log, "one\n") || !strings.Contains(log, "two\n") || strings.Contains(log, "three") {
			t.Errorf("detailed log: %s", log)
		}
	})
	t.Run("output", func(t *testing.T) {
		t.Parallel()
		j := newJob(t, nil, "sh", "-c", "echo ran > result")
		j.script(jobdir.OutputStage, "1", "exit 4")
		if code := j.run(); code != ExitOutput {
			t.Fatalf("exit code %d", code)
		}
		if got, r := j.results(), j.receipt(); got["result"] != "ran\n" || r.Exit != 0 || r.Reason != "output script" {
			t.Errorf("results %q, receipt %+v", got, r)
		}
	})
	t.Run("altered", func(t *testing.T) {
		t.Parallel()
		j := newJob(t, nil, "sh", "-c", "echo ran > result")
		j.script(jobdir.InputStage, "1", "exit 4")
		check(t, os.WriteFile(j.dir+"/scripts/input/1", []byte("#!/bin/sh\nexit 0\n"), 0o600))
		if code := j.run(); code != ExitIntegrity {
			t.Fatalf("exit code %d", code)
		}
		j.missing("")
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	flip := func(t *testing.T, path string, where func(b []byte) int) {
		b, err := os.ReadFile(path)
		check(t, err)
		b[where(b)] ^= 1
		check(t, os.WriteFile(path, b, 0o600))
	}
	inIndex := func(b []byte) int { return bytes.LastIndex(b, []byte("SBINDEX1")) + 100 }
	inData := func(b []byte) int { return len(b) / 2 } // one file is nearly all of the volume
	big := strings.Repeat("x", 1<<16)
	for name, c := range map[string]struct {
		spoil   func(t *testing.T, j *testJob)
		code    int
		reason  string // of the receipt; "" if there is none
		mounted bool
	}{
		"manifest digest": {func(_ *testing.T, j *testJob) { j.in.Options.Digest = "sha256:" + strings.Repeat("0", 64) }, ExitIntegrity, "", false},
		"binary": {func(t *testing.T, j *testJob) {
			check(t, os.WriteFile(j.self+"/gocryptfs", []byte("other"), 0o700))
		}, ExitIntegrity, "", false},
		"no gocryptfs pinned": {func(_ *testing.T, j *testJob) { j.m.Binaries = j.m.Binaries[:1] }, ExitManifest, "", false},
		"runtime": {func(_ *testing.T, j *testJob) {
			j.m.Runtime, j.env = "/nonexistent/apptainer", append(j.env, "X=1")
		}, ExitMount, "", false},
		"tasks":       {func(_ *testing.T, j *testJob) { j.env = append(j.env, "SLURM_STEP_NUM_TASKS=2") }, ExitManifest, "", false},
		"attestation": {func(_ *testing.T, j *testJob) { j.in.Refuse = "attestation" }, ExitAttestation, "", false},
		"key":         {func(_ *testing.T, j *testJob) { j.in.Refuse = "key" }, ExitKey, "", false},
		"tier":        {func(_ *testing.T, j *testJob) { j.m.Tier = manifest.TierB2 }, ExitAttestation, "", false},
		"service":     {func(_ *testing.T, j *testJob) { j.in.Service = bytes.Repeat([]byte{1}, 64) }, ExitAttestation, "", false},
		"earlier results": {func(t *testing.T, j *testJob) {
			check(t, os.MkdirAll(j.path(""), 0o700))
		}, ExitManifest, "", false},
		"key missing":     {func(_ *testing.T, j *testJob) { j.in.Keys = j.in.Keys[:1] }, ExitKey, "keys", false},
		"released digest": {func(_ *testing.T, j *testJob) { j.in.Keys[1].Digest[0] ^= 1 }, ExitIntegrity, "integrity", false},
		"pinned digest":   {func(_ *testing.T, j *testJob) { j.m.Volumes[1].Digest[0] ^= 1 }, ExitIntegrity, "integrity", false},
		"image cut": {func(t *testing.T, j *testJob) {
			check(t, os.Truncate(j.m.Volumes[0].Path, j.m.Volumes[0].Size-512))
		}, ExitIntegrity, "integrity", false},
		"index flipped": {func(t *testing.T, j *testJob) { flip(t, j.m.Volumes[1].Path, inIndex) }, ExitIntegrity, "integrity", false},
		"not an image": {func(_ *testing.T, j *testJob) {
			j.m.Volumes = j.m.Volumes[1:]
			j.m.Volumes[0].Kind = manifest.KindImage
		}, ExitManifest, "manifest", false},
		"data flipped": {func(t *testing.T, j *testJob) { flip(t, j.m.Volumes[1].Path, inData) }, ExitIntegrity, "integrity", true},
		"sum differs": {func(_ *testing.T, j *testJob) {
			j.replaceInput(map[string]string{"f": "x", sumsName: sum("y") + "  f\n"})
		}, ExitInput, "input check", true},
		"listed file lacks": {func(_ *testing.T, j *testJob) { j.replaceInput(map[string]string{sumsName: sum("y") + "  f\n"}) }, ExitInput, "input check", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t, map[string]string{"f": big, sumsName: sum(big) + "  f\n"}, "sh", "-c", "echo ran > result")
			c.spoil(t, j)
			if code := j.run(); code != c.code {
				t.Fatalf("exit code %d, want %d", code, c.code)
			}
			if c.reason == "" {
				j.missing(jobdir.ReceiptName)
			} else if r := j.receipt(); r.Reason != c.reason || r.Exit != neverRan || r.Output.Sealed != c.mounted {
				t.Errorf("receipt: %+v", r)
			}
			if c.mounted {
				if _, ran := j.results()["result"]; ran {
					t.Error("the application ran")
				}
			} else {
				j.missing(jobdir.KeysName, jobdir.CipherDirName)
			}
			j.leftNothing()
		})
	}
}

// replaceInput seals another data set in the first one's place.
func (j *testJob) replaceInput(files map[string]string) {
	j.m.Volumes[1] = j.seal(manifest.KindDataset, "input", files)
}
