package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

func TestVerdictOnTheApplication(t *testing.T) {
	t.Parallel()
	begun := []manifest.Step{{Name: "mounts"}, {Name: noderun.StepApplication}}
	for name, c := range map[string]struct {
		receipt manifest.Receipt
		want    string
	}{
		"ended":   {manifest.Receipt{Reason: "completed", Exit: 3, Steps: begun}, "completed, exit code 3; "},
		"never":   {manifest.Receipt{Reason: "input check", Exit: -1, Steps: begun[:1]}, "input check, the application was not started; "},
		"no code": {manifest.Receipt{Reason: "mounts", Exit: -1, Steps: begun}, "mounts, the application has left no exit code; "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := verdict(results.Node{Receipt: &c.receipt, Dir: "d", Sealed: true}, false); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q first", got, c.want)
			}
		})
	}
}

// TestWholeNodes: a job's directory is removed only where nothing more can be had from it.
func TestWholeNodes(t *testing.T) {
	t.Parallel()
	receipt := func(o manifest.Output) *manifest.Receipt { return &manifest.Receipt{Output: o} }
	sealed := manifest.Output{VolumeID: "v", Sealed: true}
	for name, c := range map[string]struct {
		node results.Node
		want int
	}{
		"sealed":     {results.Node{Receipt: receipt(sealed)}, 1},
		"indexed":    {results.Node{Receipt: receipt(manifest.Output{VolumeID: "v", Index: &manifest.Index{}})}, 1},
		"none":       {results.Node{Receipt: receipt(manifest.Output{})}, 1},
		"neither":    {results.Node{Receipt: receipt(manifest.Output{VolumeID: "v"})}, 0},
		"killed":     {results.Node{}, 0},
		"damaged":    {results.Node{Receipt: receipt(sealed), Damaged: []results.Damage{{}}}, 0},
		"not opened": {results.Node{Receipt: receipt(sealed), Err: errors.New("no space")}, 0},
	} {
		if got := wholeNodes([]results.Node{c.node}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestLastRun: what a job left before it was restarted does not stand for a node that left nothing since.
func TestLastRun(t *testing.T) {
	t.Parallel()
	for names, want := range map[string]int{"": 0, "cn1 cn2": 2, "cn1 cn1.r1 cn2": 1, "cn1 cn1.r2 cn2.r1 cn2.r2": 2, "a.rack b": 2} {
		var nodes []results.Node
		for _, name := range strings.Fields(names) {
			nodes = append(nodes, results.Node{Name: name})
		}
		if got := lastRun(nodes); got != want {
			t.Errorf("%q: %d, want %d", names, got, want)
		}
	}
}

// TestApplicationCode: the highest of all nodes; none where the application, or the job, did not come to its end.
func TestApplicationCode(t *testing.T) {
	t.Parallel()
	ended := func(exit int, reason string) results.Node {
		return results.Node{Name: "cn1", Receipt: &manifest.Receipt{Exit: exit, Reason: reason}}
	}
	well := ended(0, jobdir.Completed)
	for name, c := range map[string]struct {
		nodes []results.Node
		want  int
		bad   bool
	}{
		"well":           {[]results.Node{well, well}, 0, false},
		"one of several": {[]results.Node{well, ended(42, jobdir.Completed), ended(3, jobdir.Completed)}, 42, false},
		"killed":         {[]results.Node{well, {Name: "cn2"}}, 0, true},
		"never ran":      {[]results.Node{ended(-1, jobdir.ReasonInputCheck)}, 0, true},
		"not the job":    {[]results.Node{ended(0, jobdir.ReasonOutputScript)}, 0, true},
		"stopped":        {[]results.Node{ended(143, jobdir.ReasonTimeLimit)}, 143, false},
	} {
		if got, err := applicationCode(c.nodes); got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

// TestWhyNothing: what is known of a job that has left nothing is said, and ends with a code that says whether more can come.
func TestWhyNothing(t *testing.T) {
	t.Parallel()
	c := &client{fs: transfer.Local{}}
	log := filepath.Join(t.TempDir(), "job.log")
	if err := os.WriteFile(log, []byte("first\nlast words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		log   string
		state jobState
		class fault.Class
		want  string
		hint  string
	}{
		"never began": {"/nowhere", jobState{Status: slurm.Status{State: slurm.Cancelled, ExitCode: -1}}, fault.Empty,
			"never began: it is CANCELLED", "submit it again"},
		"refused": {log, jobState{Status: slurm.Status{State: slurm.Failed, ExitCode: noderun.ExitKey}}, fault.Empty,
			"exit code 242 (a policy refused a key", "last words"},
		"forgotten":    {log, jobState{Status: slurm.Status{State: slurm.Unknown}}, fault.Empty, "does not know it any more", "last words"},
		"Slurm is out": {log, jobState{asked: errors.New("down")}, fault.Job, "cannot be asked", "last words"},
		"runs":         {log, jobState{Status: slurm.Status{State: slurm.Running}}, fault.Job, "left nothing yet", ""},
	} {
		err := whyNothing(t, c.log, c.state)
		if fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.want) || !strings.Contains(fault.Hint(err), c.hint) {
			t.Errorf("%s: %v, %s, hint %q", name, err, fault.ClassOf(err), fault.Hint(err))
		}
	}
	if err := c.whyNothing(submission.Record{JobID: "7"}, jobState{}, nil); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
}

func whyNothing(t *testing.T, log string, s jobState) error {
	t.Helper()
	c := &client{fs: transfer.Local{}}
	return c.whyNothing(submission.Record{JobID: "7", LogFile: log}, s, fault.New(fault.Job, results.ErrNothing, ""))
}
