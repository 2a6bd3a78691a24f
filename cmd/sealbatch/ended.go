package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/jobprep"
	"github.com/sealbatch/sealbatch/slurm"
)

// jobState is what Slurm says of a job whose results are fetched.
type jobState struct {
	slurm.Status
	asked error // why Slurm could not be asked; nil for jobs that it was not asked about, too
}

// over reports whether Slurm says that the job has ended.
func (s jobState) over() bool { return s.asked == nil && s.State.Ended() }

// state asks Slurm about a job. It fails while the job waits or runs: what it has not sealed yet
// would look like what a killed job left. That Slurm does not know the job any more, or cannot be
// asked, does not keep results from their owner.
func (c *client) state(ctx context.Context, rec submission.Record) (jobState, error) {
	id, err := slurm.ParseJobID(rec.JobID)
	if err != nil {
		return jobState{}, nil // submitted by hand
	}
	all, err := c.slurm().Status(ctx, []slurm.JobID{id})
	s := jobState{Status: all[id], asked: err}
	if err != nil || s.State == slurm.Unknown || s.State.Ended() {
		return s, nil
	}
	how := "wait for it, or end it with scancel " + rec.JobID
	if outlook, _ := s.Waiting(); outlook == slurm.Never && s.State == slurm.Pending {
		how = "end it with scancel " + rec.JobID
	}
	stands := strings.TrimPrefix(jobprep.Describe(id, s.Status), "job "+rec.JobID+": ")
	return s, fault.New(fault.Job, fmt.Errorf("job %s has not ended: it is %s", id, stands),
		how+"; results --recover shows what it has written so far")
}

// nodesGiven returns how many nodes of a job are to have left something: where that was left to Slurm, what Slurm says, and
// at least those that got keys.
func (c *client) nodesGiven(ctx context.Context, rec submission.Record, s jobState) int {
	n := jobprep.NodesGiven(ctx, c.slurm(), rec, s.Status)
	if rec.MinNodes == 0 {
		return n
	}
	m, err := c.keys.Manifest(ctx, rec.Manifest)
	if err != nil {
		c.a.log.Debug("how many nodes got keys is not known", "error", err)
	}
	return min(max(n, m.Served), rec.Nodes)
}

// whyNothing says why a job, or a node of it, has left nothing, as far as Slurm and the job's log
// know it. err is an ErrNothing, which stays where neither knows more.
func (c *client) whyNothing(rec submission.Record, s jobState, err error) error {
	if !errors.Is(err, results.ErrNothing) {
		return err
	}
	log := c.logTail(rec)
	if rec.JobID == "" {
		if len(log) > 0 {
			err = fault.New(fault.ClassOf(err), err, "the end of its log, "+transfer.At(rec.LogFile)+":\n"+strings.Join(log, "\n"))
		}
		return err
	}
	hint := "it has no log; what Slurm recorded of it: sacct -j " + rec.JobID + " on the login node"
	if len(log) > 0 {
		hint = "the end of its log, " + transfer.At(rec.LogFile) + ":\n" + strings.Join(log, "\n")
	}
	switch {
	case s.asked != nil:
		return fault.New(fault.Job, fmt.Errorf("%w, and Slurm cannot be asked about job %s: %w", err, rec.JobID, s.asked), hint)
	case s.State == slurm.Unknown:
		return fault.New(fault.Empty, fmt.Errorf("job %s has left nothing, and Slurm does not know it any more", rec.JobID), hint)
	case !s.State.Ended():
		return err
	case len(log) == 0 && s.ExitCode <= 0:
		return fault.New(fault.Empty, fmt.Errorf("job %s has ended and has no log, so it never began: it is %s", rec.JobID, s.ended()),
			"submit it again")
	}
	return fault.New(fault.Empty, fmt.Errorf("job %s has ended and left nothing: it is %s", rec.JobID, s.ended()), hint)
}

// ended returns how the job has ended.
func (s jobState) ended() string {
	text := string(s.State)
	switch {
	case s.ExitCode > 0:
		text += fmt.Sprintf(", exit code %d", s.ExitCode)
		for _, m := range noderun.ExitMeanings() {
			if m.Code == s.ExitCode {
				text += " (" + m.Meaning + ")"
			}
		}
	case s.Signal > 0:
		text += fmt.Sprintf(", by signal %d", s.Signal)
	case s.Reason != "":
		text += " (" + s.Reason + ")"
	}
	return text
}

// Bounds of what is shown of a job's log.
const (
	tailLines = 8
	tailBytes = 8 << 10
)

// logTail returns the last lines of a job's log; none if there is no log, or it cannot be read.
func (c *client) logTail(rec submission.Record) []string {
	f, err := c.fs.Open(rec.LogFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	from := max(0, fi.Size()-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, tailBytes))
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if from > 0 {
		lines = lines[1:] // its beginning is missing
	}
	var last []string
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		if line != "" {
			last = append(last, text.Printable(line))
		}
	}
	return last
}

// applicationCode returns the highest exit code of the nodes' applications. It is an error if a node's
// has none, or was not all that the job had to do.
func applicationCode(nodes []results.Node) (int, error) {
	code := 0
	for _, n := range nodes {
		r := n.Receipt
		switch {
		case r == nil:
			return 0, fault.New(fault.Job, fmt.Errorf("%s: there is no receipt, so the application's exit code is not known", n.Name), "")
		case r.Exit < 0:
			return 0, fault.New(fault.Job, fmt.Errorf("%s: the application has no exit code: the job ended with: %s", n.Name, r.Reason), "")
		case r.Exit == 0 && r.Reason != jobdir.Completed:
			return 0, fault.New(fault.Job, fmt.Errorf("%s: the application ended well, the job did not: %s", n.Name, r.Reason), "")
		}
		code = max(code, r.Exit)
	}
	return code, nil
}
