package main

import (
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
