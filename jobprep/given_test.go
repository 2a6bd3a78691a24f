package jobprep

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/slurm"
)

// TestNodesGiven: of a job that takes one node to four, those that Slurm gave it are to leave something, not four.
func TestNodesGiven(t *testing.T) {
	t.Parallel()
	c := slurm.Commands{Runner: runner(func(argv []string, _ string) (string, string, int) {
		if !strings.HasSuffix(strings.Join(argv, " "), " scontrol show hostnames cn[1-3]") {
			return "", "what?", 1
		}
		return "cn1\ncn2\ncn3\n", "", 0
	})}
	for name, want := range map[string]struct {
		rec  submission.Record
		list string
		n    int
	}{
		"a number":          {submission.Record{Nodes: 4}, "cn[1-3]", 4},
		"a range":           {submission.Record{MinNodes: 1, Nodes: 4}, "cn[1-3]", 3},
		"not known":         {submission.Record{MinNodes: 2, Nodes: 4}, "", 2},
		"no answer":         {submission.Record{MinNodes: 2, Nodes: 4}, "cn[1-4]", 2},
		"more than it took": {submission.Record{MinNodes: 1, Nodes: 2}, "cn[1-3]", 2},
	} {
		if n := NodesGiven(t.Context(), c, want.rec, slurm.Status{State: slurm.Running, NodeList: want.list}); n != want.n {
			t.Errorf("%s: %d, want %d", name, n, want.n)
		}
	}
}
