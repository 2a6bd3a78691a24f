package jobprep

import (
	"context"

	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/slurm"
)

// NodesGiven returns how many nodes a job has that leave something: as many as it asked for or, of those that left it to
// Slurm, as s says that it got; if s does not say it, the least that they asked for.
func NodesGiven(ctx context.Context, c slurm.Commands, rec submission.Record, s slurm.Status) int {
	if rec.MinNodes == 0 {
		return rec.Nodes
	}
	if !s.Began() {
		return rec.MinNodes
	}
	names, err := c.Hostnames(ctx, s.NodeList)
	if err != nil {
		return rec.MinNodes
	}
	return min(max(rec.MinNodes, len(names)), rec.Nodes)
}
