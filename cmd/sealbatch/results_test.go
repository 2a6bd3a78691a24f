package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/results"
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
