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
	late := lateness(p, s)
	switch {
	case s.Refused() && d.untouched(rec):
		return rec, d.withdraw(ctx, rec, fault.New(fault.Slurm, errors.Join(sbatchErr, errors.New(Describe(id, s))),
			"nothing ran, and what was prepared is removed: run job-prep again when that is put right"))
	case s.State == slurm.Pending && outlook == slurm.Never && !p.Keep:
		return rec, d.cancel(ctx, rec, id, errors.New(Describe(id, s)))
	case late != "" && s.Reason == "BeginTime" && !p.Keep: // elsewhere the start is a guess
		return rec, d.cancel(ctx, rec, id, errors.New(late))
	case sbatchErr != nil:
		d.Log.Warn("sbatch failed, but Slurm has the job", "job", id, "error", sbatchErr)
	}
	if s.State != slurm.Unknown && !d.Followed {
		d.Log.Info(Describe(id, s))
	}
	if late != "" {
		d.Log.Warn(late)
	}
	return rec, nil
}

// lateness says that a job will begin too late for its keys; "" if it will not, or that is not known.
func lateness(p Prepared, s slurm.Status) string {
	if s.State != slurm.Pending || p.Until.IsZero() || !s.Start.After(p.Until) {
		return ""
	}
	return fmt.Sprintf("Slurm means to start it at %s; its keys are not released to it after %s, as it was prepared: "+
		"look at --valid, and at the owners' --expires", s.Start.UTC().Format(time.RFC3339), p.Until.UTC().Format(time.RFC3339))
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

// cancel ends a job that would wait for nothing, and removes what was prepared once it is known that it never began.
func (d Deps) cancel(ctx context.Context, rec submission.Record, id slurm.JobID, why error) error {
	err := d.Slurm.Cancel(ctx, id)
	if err == nil {
		var s slurm.Status
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

// unstarted returns why a job ended without having begun; nil if it has begun, or has not ended.
func (d Deps) unstarted(rec submission.Record, s slurm.Status) error {
	if !s.State.Ended() || s.Began() || s.State == slurm.Completed || !d.untouched(rec) {
		return nil
	}
	class := fault.Job
	if s.Refused() {
		class = fault.Slurm
	}
	return fault.New(class, errors.New(Describe(slurm.JobID(rec.JobID), s)), "what was prepared is removed: run job-prep again")
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
