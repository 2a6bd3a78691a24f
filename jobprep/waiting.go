package jobprep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/slurm"
)

// Waiting names the jobs on record here that pin a volume and may still ask for its key:
// those that Slurm says have not begun, and those that lie ready to be submitted. An
// error says that Slurm did not tell of all; what is known is returned all the same.
func Waiting(ctx context.Context, d Deps, volumeID string) (names []string, err error) {
	all, err := d.Store.List()
	if err != nil {
		return nil, err
	}
	byID := map[slurm.JobID]bool{}
	for _, rec := range all {
		if !slices.Contains(rec.Volumes, volumeID) {
			continue
		}
		switch {
		case rec.JobID != "" && rec.Address == d.Address:
			byID[slurm.JobID(rec.JobID)] = true
		case rec.JobID != "":
			names = append(names, fmt.Sprintf("job %s on %s, which was not asked", rec.JobID, rec.Address))
		case rec.Stage != submission.Preparing:
			ready, rerr := d.readyJob(ctx, rec, byID)
			names, err = append(names, ready...), errors.Join(err, rerr)
		}
	}
	queued, qerr := d.queued(ctx, byID)
	return append(queued, names...), errors.Join(err, qerr)
}

// readyJob names a run that is not known to be submitted, or puts the job that somebody
// made of it into byID.
func (d Deps) readyJob(ctx context.Context, rec submission.Record, byID map[slurm.JobID]bool) (names []string, err error) {
	if rec.Address == d.Address {
		var ids []slurm.JobID
		ids, err = d.find(ctx, rec)
		for _, id := range ids {
			byID[id] = true
		}
		if len(ids) > 0 || fault.ClassOf(d.started(rec)) == fault.Job {
			return nil, err
		}
	}
	return []string{fmt.Sprintf("run %s (ready to be submitted)", rec.Run[:12])}, err
}

// begun are the states of jobs that have begun and not ended (squeue's manual, JOB STATE CODES).
var begun = []slurm.State{slurm.Running, slurm.Completing, "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}

// queued names those of the jobs that have not begun.
func (d Deps) queued(ctx context.Context, byID map[slurm.JobID]bool) (names []string, unasked error) {
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(byID)), 100) {
		status, err := d.Slurm.Status(ctx, ids)
		unasked = errors.Join(unasked, err)
		for _, id := range ids {
			s := status[id].State
			switch {
			case err != nil:
				names = append(names, fmt.Sprintf("job %s (Slurm does not say)", id))
			case s == slurm.Unknown, s.Ended(), slices.Contains(begun, s): // forgotten, or has its keys
			default:
				names = append(names, fmt.Sprintf("job %s (%s)", id, s))
			}
		}
	}
	return names, unasked
}
