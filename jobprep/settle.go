package jobprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/slurm"
)

// looks are the pauses before each look at a job that was just submitted: Slurm decides on most at once, on some a
// moment later.
var looks = []time.Duration{0, time.Second, 2 * time.Second}

// taken remembers the id of a job that Slurm has and says what it made of it. sbatchErr is what sbatch
// said if it failed all the same: Slurm keeps a record of some jobs that it refuses. A job that ended without having
// begun is withdrawn; so is one that will never start, unless it is to be kept, and then it is named.
func (d Deps) taken(
	ctx context.Context, p Prepared, rec submission.Record, id slurm.JobID, sbatchErr error,
) (submission.Record, error) {
	rec, err := d.adopt(rec, id)
	if err != nil {
		return rec, err
	}
	s, err := d.settled(ctx, id)
	if err != nil {
		d.Log.Warn("the job is submitted; how it stands could not be asked", "job", id, "error", err)
		return rec, nil
	}
	outlook, _ := s.Waiting()
	switch {
	case s.Refused() && d.untouched(rec):
		return rec, d.withdraw(ctx, rec, fault.New(fault.Slurm, errors.Join(sbatchErr, errors.New(Describe(id, s))),
			"nothing ran, and what was prepared is removed: run job-prep again when that is put right"))
	case s.State == slurm.Pending && outlook == slurm.Never && !p.Keep:
		return rec, d.cancel(ctx, rec, id, s)
	case sbatchErr != nil:
		d.Log.Warn("sbatch failed, but Slurm has the job", "job", id, "error", sbatchErr)
	}
	if s.State != slurm.Unknown {
		d.Log.Info(Describe(id, s))
	}
	if s.State == slurm.Pending && !p.Until.IsZero() && s.Start.After(p.Until) {
		d.Log.Warn(fmt.Sprintf("Slurm expects to start it at %s; its keys are not released to it after %s, as it was prepared: "+
			"look at --valid, and at the owners' --expires", s.Start.UTC().Format(time.RFC3339), p.Until.UTC().Format(time.RFC3339)))
	}
	return rec, nil
}

// settled asks for a job's status until it gives a reason for its waiting, for some seconds at most.
func (d Deps) settled(ctx context.Context, id slurm.JobID) (s slurm.Status, err error) {
	for _, pause := range looks {
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(pause):
		}
		all, err := d.Slurm.Status(ctx, []slurm.JobID{id})
		if err != nil {
			return s, err
		}
		if s = all[id]; s.State != slurm.Pending || s.Reason != "" {
			break
		}
	}
	return s, nil
}

// cancel ends a job that would wait for ever, and removes what was prepared once it is known that it never began.
func (d Deps) cancel(ctx context.Context, rec submission.Record, id slurm.JobID, s slurm.Status) error {
	why := errors.New(Describe(id, s))
	err := d.Slurm.Cancel(ctx, id)
	if err == nil {
		if s, err = d.settled(ctx, id); err == nil && (!s.State.Ended() || s.Began() || !d.untouched(rec)) {
			err = errors.New(Describe(id, s))
		}
	}
	if err != nil {
		return fault.New(fault.Slurm, errors.Join(why, fmt.Errorf("it could not be cancelled: %w", err)), "scancel "+string(id)+" cancels it")
	}
	return d.withdraw(ctx, rec, fault.New(fault.Slurm, why,
		"it was cancelled, and what was prepared is removed: run job-prep again when that is put right; --force leaves such a job waiting"))
}

// untouched reports whether nothing was written to a job's directory since it was laid out: a job without nodes may
// have had some before it was requeued.
func (d Deps) untouched(rec submission.Record) bool {
	_, err := d.FS.Lstat(rec.LogFile)
	nodes, dirErr := d.FS.ReadDir(jobdir.NodePath(rec.JobDir, ""))
	return errors.Is(err, fs.ErrNotExist) && dirErr == nil && len(nodes) == 0
}

// Describe says how a job stands, in one line.
func Describe(id slurm.JobID, s slurm.Status) string {
	line := fmt.Sprintf("job %s: %s", id, s.State)
	why, means := "", ""
	switch {
	case s.State == slurm.Unknown:
		return fmt.Sprintf("job %s: Slurm does not know it any more: it has ended", id)
	case s.State.Ended():
		if s.Refused() {
			why = s.Reason
		}
		means = s.Ending()
	case s.State == slurm.Running && s.NodeList != "":
		line += " on " + s.NodeList
	case s.State == slurm.Running || s.State == slurm.Completing:
	default:
		var outlook slurm.Outlook
		why = s.Reason
		if outlook, means = s.Waiting(); outlook == slurm.Never {
			means = "it will not start as it was submitted: " + means
		}
	}
	if why != "" {
		line += " (" + why + ")"
	}
	if means != "" {
		line += ": " + means
	}
	return line
}
