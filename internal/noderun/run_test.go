package noderun

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
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
	j.m.Volumes = append(j.m.Volumes, j.seal(manifest.KindResults, "a,b:c d", map[string]string{"name": "second dataset"}))
	j.private.Flags = append(j.private.Flags, "--env", "MINE=own=1, 2")
	j.script(jobdir.InputStage, "10-first", `echo "input script sees $(ls /sd-container/encrypted)"`)
	j.script(jobdir.InputStage, "deep/er/20-second", `pwd; cat "$(dirname "$0")"/../list.txt; [ -x "${0%/*/*}"/tool ]`)
	j.scriptFile(jobdir.InputStage, "deep/list.txt", "read by a script\n", false)
	j.scriptFile(jobdir.InputStage, "deep/tool", "#!/bin/sh\necho a tool ran\n", true)
	j.script(jobdir.OutputStage, "90-last", `[ "$(cat /sd-container/output/result)" = `+canary+` ] && echo "output script is content"`)
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	got := j.results()
	for name, want := range map[string]string{
		"result": canary, "second": "second dataset", "stdout": canary + "\n", "stderr": "err\n", "exit_code": "0\n",
		"environment": "3,42,,,own=1, 2,/sd-container/home,/sd-container/output\n", "d/sealed": "",
		"writable": "/tmp\n/var/tmp\n/sd-container/home\n/dev/shm\n/sd-container/output\n/sd-container/scratch\n",
	} {
		if v, ok := got[name]; v != want || !ok {
			t.Errorf("%s holds %q, want %q", name, v, want)
		}
	}
	for _, want := range []string{
		"input script sees a,b:c d\ninput\n", "/sd-container/encrypted\nread by a script\n", "input script 2 is deep/er/20-second.sh", "output script is content\n",
		"2 entries were made readable",
	} {
		if !strings.Contains(got[logFile], want) {
			t.Errorf("%s lacks %q: %s", logFile, want, got[logFile])
		}
	}
	if strings.Contains(got[logFile], "a tool ran") {
		t.Errorf("what is no script ran: %s", got[logFile])
	}
	r := j.receipt()
	if r.Reason != "completed" || r.Exit != 0 || r.Run != j.m.Run || r.Tier != manifest.TierC ||
		r.Node != testNode || r.Output.Until != "scratch" {
		t.Errorf("receipt: %+v", r)
	}
	if left := j.left(r); len(left) != 1 || left[0].Path != "pipe" || r.Output.Left.Special != 1 {
		t.Errorf("not kept: %+v", left)
	}
	j.missing(jobdir.CipherDirName, jobdir.ScratchName, jobdir.SealedName+jobdir.PartialSuffix)
	j.leftNothing()
	j.leakedNothing(canary, "first file", "a,b:c d", "10-first")
}

// left opens the list of what could not be kept, which the receipt vouches for.
func (j *testJob) left(r manifest.Receipt) []jobdir.LeftEntry {
	j.t.Helper()
	b, err := os.ReadFile(j.path(jobdir.LeftName))
	check(j.t, err)
	if r.Output.Left == nil || r.Output.Left.Names != manifest.DigestOf(b) {
		j.t.Fatalf("receipt: %+v", r.Output.Left)
	}
	plain, err := age.Decrypt(bytes.NewReader(b), j.identity)
	check(j.t, err)
	text, err := io.ReadAll(plain)
	check(j.t, err)
	all, err := jobdir.ParseLeft(string(text))
	check(j.t, err)
	if len(all) != r.Output.Left.Entries {
		j.t.Errorf("%d entries, the receipt says %d", len(all), r.Output.Left.Entries)
	}
	return all
}

// TestLongPathsAreSealed: an encrypted path can be longer than the system takes when the plain one is not.
func TestLongPathsAreSealed(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", `name=$(printf '%0100d' 0)
		for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do mkdir $name && cd $name; done
		echo deep > leaf; mkdir closed; echo in > closed/it; chmod 0 closed/it closed`)
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	r, got := j.receipt(), j.results()
	deep := strings.Repeat(fmt.Sprintf("%0100d/", 0), 30)
	if got[deep+"leaf"] != "deep\n" || got[deep+"closed/it"] != "in\n" || r.Output.Left != nil || r.Reason != "completed" {
		t.Errorf("%d files, receipt %+v", len(got), r)
	}
	j.missing(jobdir.CipherDirName)
}

// TestNotAllCanBeKept: one thing that cannot be kept ends nothing; it is named to the recipients only, and receipt
// and exit code say that not all is there.
func TestNotAllCanBeKept(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", "echo kept > result; mkfifo "+canary+"; echo x > /host/nodes/"+testNode+"/output/"+canary)
	j.private.Flags = []string{"--bind", j.dir + ":/host"}
	if code := j.run(); code != ExitSeal {
		t.Errorf("exit code %d", code)
	}
	r := j.receipt()
	if r.Exit != 0 || r.Reason != jobdir.ReasonSealing || r.Output.Index == nil || r.Output.Index.Torn != 1 ||
		r.Output.Left.Entries != 2 || r.Output.Left.Special != 1 {
		t.Errorf("receipt: %+v, %+v, %+v", r, r.Output.Index, r.Output.Left)
	}
	left := j.left(r)
	slices.SortFunc(left, func(a, b jobdir.LeftEntry) int { return strings.Compare(a.Reason, b.Reason) })
	if len(left) != 2 || left[0].Path != canary || !strings.Contains(left[0].Reason, "name") || left[1].Path != canary {
		t.Errorf("not kept: %+v", left)
	}
	if b := readNode(t, j.openIndexed(), "result"); b != "kept\n" {
		t.Errorf("result is %q", b)
	}
	if log := j.log.String(); !strings.Contains(log, "not all of the results could be kept") || strings.Contains(log, canary) {
		t.Errorf("log: %s", log)
	}
}

// TestStepsTellTheTruth: of an application that ended with 42, the log does not say that all was well.
func TestStepsTellTheTruth(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", "chmod 0 /sd-container/output; exit 42")
	if code := j.run(); code != 42 {
		t.Errorf("exit code %d", code)
	}
	log := j.log.String()
	if !strings.Contains(log, "application: exit code 42, ") || strings.Contains(log, "application: ok") {
		t.Errorf("log: %s", log)
	}
	r := j.receipt()
	for _, s := range r.Steps {
		if s.Name == StepApplication && s.Exit != 42 || s.Name != StepApplication && s.Exit != 0 {
			t.Errorf("step %+v", s)
		}
	}
	if _, ok := j.results()["stdout"]; !ok || r.Output.Left != nil {
		t.Errorf("a directory that its owner had closed: %+v", r)
	}
}

// TestNetworkNone: what the manifest says of the network holds for the application and
// for what checks it.
func TestNetworkNone(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"", manifest.NetworkNone} {
		j := newJob(t, nil, "sh", "-c", `echo "application: network $NETWORK"`)
		j.m.Network = network
		j.script(jobdir.InputStage, "before", `echo "before: network $NETWORK."`)
		j.script(jobdir.OutputStage, "after", `echo "after: network $NETWORK."`)
		if code := j.run(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		got := j.results()
		if got["stdout"] != "application: network "+network+"\n" ||
			!strings.Contains(got[logFile], "before: network "+network+".") || !strings.Contains(got[logFile], "after: network "+network+".") {
			t.Errorf("network %q: %q, %q", network, got["stdout"], got[logFile])
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
		check(t, os.WriteFile(j.dir+"/scripts/input/1.sh", []byte("#!/bin/sh\nexit 0\n"), 0o600))
		if code := j.run(); code != ExitIntegrity {
			t.Fatalf("exit code %d", code)
		}
		j.missing("")
	})
}

// refusal is a job that is spoilt before it runs.
type refusal struct {
	spoil   func(t *testing.T, j *testJob)
	code    int
	reason  string // of the receipt; "" if there is none
	mounted bool
}

// flip flips a bit of the byte that where finds in a file.
func flip(t *testing.T, path string, where func(b []byte) int) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	b[where(b)] ^= 1
	check(t, os.WriteFile(path, b, 0o600))
}

func refusals() map[string]refusal {
	inIndex := func(b []byte) int { return bytes.LastIndex(b, []byte("SBINDEX1")) + 100 }
	inData := func(b []byte) int { return len(b) / 2 } // one file is nearly all of the volume
	return map[string]refusal{
		"manifest digest": {func(_ *testing.T, j *testJob) {
			j.in.Options.Digest = "sha256:" + strings.Repeat("0", 64)
		}, ExitIntegrity, "", false},
		"binary": {func(t *testing.T, j *testJob) {
			check(t, os.WriteFile(j.self+"/gocryptfs", []byte("other"), 0o700))
		}, ExitIntegrity, "", false},
		"no gocryptfs pinned": {func(_ *testing.T, j *testJob) { j.m.Binaries = j.m.Binaries[:1] }, ExitManifest, "", false},
		"runtime": {func(_ *testing.T, j *testJob) {
			j.m.Runtime, j.env = "/nonexistent/apptainer", append(j.env, "X=1")
		}, ExitMount, "", false},
		"tasks": {func(_ *testing.T, j *testJob) {
			j.env = append(j.env, "SLURM_STEP_NUM_TASKS=2")
		}, ExitManifest, "", false},
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
		"index flipped": {func(t *testing.T, j *testJob) {
			flip(t, j.m.Volumes[1].Path, inIndex)
		}, ExitIntegrity, "integrity", false},
		"not an image": {func(_ *testing.T, j *testJob) {
			j.m.Volumes = j.m.Volumes[1:]
			j.m.Volumes[0].Kind = manifest.KindImage
		}, ExitManifest, "manifest", false},
		"data flipped": {func(t *testing.T, j *testJob) { flip(t, j.m.Volumes[1].Path, inData) }, ExitIntegrity, "integrity", true},
		"sum differs": {func(_ *testing.T, j *testJob) {
			j.replaceInput(map[string]string{"f": "x", sumsName: sum("y") + "  f\n"})
		}, ExitInput, "input check", true},
		"listed file lacks": {func(_ *testing.T, j *testJob) {
			j.replaceInput(map[string]string{sumsName: sum("y") + "  f\n"})
		}, ExitInput, "input check", true},
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 1<<16)
	for name, c := range refusals() {
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

// replaceInput seals another dataset in the first one's place.
func (j *testJob) replaceInput(files map[string]string) {
	j.m.Volumes[1] = j.seal(manifest.KindDataset, "input", files)
}
