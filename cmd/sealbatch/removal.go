package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// removeJob removes the directory of a job that is over, if all of its results are opened, and as it
// vouched for them: of others, there may be more to recover.
func (c *client) removeJob(ctx context.Context, rec submission.Record, nodes []results.Node, ended bool) error {
	removal := jobdir.Removal{Dir: rec.JobDir, Real: rec.RealDir, Manifest: rec.Manifest}
	var err error
	switch whole := wholeNodes(nodes); {
	case whole < rec.Nodes || whole < len(nodes):
		err = fmt.Errorf("the results of %d of %d nodes are whole and opened", whole, max(rec.Nodes, len(nodes)))
	case !ended:
		err = errors.New("the job is not over, as far as Slurm says")
	default:
		err = removal.Do(ctx, c.run)
	}
	if err == nil {
		c.a.log.Info("removed at the site", "directory", transfer.At(rec.JobDir))
		return nil
	}
	return fault.New(fault.Job, fmt.Errorf("%s stays: %w", transfer.At(rec.JobDir), err), "to remove it on the login node: "+removal.Command())
}

// wholeNodes counts the nodes of which nothing more can be had than what is opened.
func wholeNodes(nodes []results.Node) (n int) {
	for _, node := range nodes {
		r := node.Receipt
		if node.Err == nil && len(node.Damaged) == 0 && node.Lost == 0 && len(node.Missing) == 0 && r != nil &&
			(r.Output.Sealed || r.Output.Index != nil || r.Output.VolumeID == "") {
			n++
		}
	}
	return n
}

// readable returns what has the site make readable what a node of an ended job has left.
func (c *client) readable(rec submission.Record) func(context.Context, string) error {
	return func(ctx context.Context, node string) error {
		return jobdir.Removal{Dir: rec.JobDir, Real: rec.RealDir, Manifest: rec.Manifest}.MakeReadable(ctx, c.run, node)
	}
}

// dropScratch removes the scratch volume of a node that was killed, or booted
// anew, before it could do so itself: nobody has its key. Where Slurm does not
// say that the job is over, that is left to the user.
func (c *client) dropScratch(ctx context.Context, rec submission.Record, n *results.Node, ended bool) {
	dir := jobdir.NodePath(rec.JobDir, n.Name, jobdir.ScratchName)
	if st, err := c.fs.Lstat(dir); err != nil || !st.IsDir() || n.Dir == "" {
		return
	}
	removal := jobdir.Removal{Dir: rec.JobDir, Real: rec.RealDir, Manifest: rec.Manifest, Scratch: n.Name}
	if !ended {
		n.Notes = append(n.Notes, "once the job is over its scratch volume, whose key is lost, can be removed on the login node by: "+
			removal.Command())
		return
	}
	if err := removal.Do(ctx, c.run); err != nil {
		n.Notes = append(n.Notes, fmt.Sprintf("the job could not remove its scratch volume, whose key is lost, and it is %v; "+
			"on the login node: %s", err, removal.Command()))
		return
	}
	n.Notes = append(n.Notes, "the job could not remove its scratch volume; that has been done now")
}
