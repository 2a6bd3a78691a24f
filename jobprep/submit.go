package jobprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// Submit hands a prepared job to sbatch, remembers its id and looks what Slurm
// made of it. When sbatch refuses it, or Slurm took it and will never run it,
// what was prepared is removed. When it is not known whether Slurm
// has the job, everything stays as it is, and Continue finds out. In no case is
// it submitted twice; and a copy of the script that somebody submits by hand
// gets no key, since the first job that presents a manifest is bound to it.
func Submit(ctx context.Context, d Deps, p Prepared) (submission.Record, error) {
	rec := p.Record
	rec.Stage = submission.Submitting
	if err := d.Store.Save(rec); err != nil {
		return p.Record, err
	}
	id, err := d.Slurm.Submit(ctx, p.Script)
	if err == nil {
		return d.taken(ctx, p, rec, id, nil)
	}
	// A refusal may come from sbatch's own timeout, after Slurm took the job.
	ids, findErr := d.find(ctx, rec)
	switch {
	case findErr != nil || !errors.Is(err, slurm.ErrSlurm):
		return rec, unsure(ctx, rec, err)
	case len(ids) > 0:
		return d.taken(ctx, p, rec, ids[0], err)
	}
	return rec, d.withdraw(ctx, rec,
		fault.New(fault.Slurm, err, "nothing was submitted, and what was prepared is removed: run job-prep again when that is put right"))
}

// adopt remembers a job's id.
func (d Deps) adopt(rec submission.Record, id slurm.JobID) (submission.Record, error) {
	rec.JobID, rec.Stage = string(id), submission.Submitted
	if err := d.Store.Save(rec); err != nil {
		return rec, fault.New(fault.Other, fmt.Errorf("job %s is submitted, but: %w", id, err), continueHint(rec))
	}
	return rec, nil
}

func continueHint(rec submission.Record) string {
	return "sealbatch job-prep --continue " + rec.Run[:12]
}

// unsure returns err as one after which nobody knows whether Slurm has the job.
func unsure(ctx context.Context, rec submission.Record, err error) error {
	code := fault.ClassOf(err)
	if ctx.Err() != nil {
		code = fault.Interrupted
	}
	return fault.New(code, fmt.Errorf("it is not known whether the job was submitted: %w", err),
		continueHint(rec)+" finds out, and submits it only if it was not")
}

// find looks for the run's job among those that Slurm remembers.
func (d Deps) find(ctx context.Context, rec submission.Record) ([]slurm.JobID, error) {
	return d.Slurm.FindByDir(ctx, rec.JobDir)
}

// withdrawTime is how long removing may take; it is done after a Ctrl-C, too.
const withdrawTime = time.Minute

// withdraw removes what was made of a job that Slurm does not have, and returns
// err. What cannot be removed now stays on record.
func (d Deps) withdraw(ctx context.Context, rec submission.Record, err error) error {
	removal := jobdir.Removal{Dir: rec.JobDir, Real: rec.RealDir, Manifest: rec.Manifest}
	rmCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTime)
	defer cancel()
	d.forget(rmCtx, rec)
	rmErr := removal.Do(rmCtx, d.Slurm.Runner)
	if rmErr == nil {
		rmErr = d.Store.Remove(rec.Run)
	}
	code, hint := fault.ClassOf(err), fault.Hint(err)
	if ctx.Err() != nil {
		code, err = fault.Interrupted, ctx.Err()
	}
	switch {
	case rmErr != nil:
		rec.Stage = submission.Preparing // what is left of it is not to be submitted
		return fault.New(code, errors.Join(err, fmt.Errorf("%s stays: %w", transfer.At(rec.JobDir), rmErr), d.Store.Save(rec)),
			"nothing was submitted; "+continueHint(rec)+" clears what is left, and so does, on the login node: "+removal.Command())
	case hint == "":
		hint = "nothing was submitted, and nothing is left on the site"
	}
	return fault.New(code, err, hint)
}

// Continue takes up a run that was broken off: one that Slurm has, or had, is
// only looked up, or cleared away if it ended before it began; one that lies ready is submitted; one that was not laid out
// whole is cleared away, which is an error, since there is nothing to go on with. keep is Prepared's Keep.
func Continue(ctx context.Context, d Deps, rec submission.Record, keep bool) (submission.Record, error) {
	unlock, err := d.Store.Lock(rec.Run)
	if err != nil {
		return rec, fault.New(fault.Other, fmt.Errorf("run %s: %w", rec.Run[:12], err), "wait for it to end")
	}
	defer unlock()
	if rec.JobID != "" {
		id := slurm.JobID(rec.JobID)
		s, err := d.settled(ctx, id)
		if err != nil {
			d.Log.Warn("how the job stands could not be asked", "job", id, "error", err)
			return rec, nil
		}
		if !d.Followed {
			d.Log.Info(Describe(id, s))
		}
		if err := d.unstarted(rec, s); err != nil {
			return rec, d.withdraw(ctx, rec, err)
		}
		return rec, nil
	}
	if rec.Stage == submission.Preparing {
		err := fmt.Errorf("run %s was broken off before it was ready", rec.Run[:12])
		return rec, d.withdraw(ctx, rec, fault.New(fault.Job, err, "what it left is removed; run job-prep again, with all its flags"))
	}
	ids, err := d.find(ctx, rec)
	switch {
	case err != nil:
		return rec, fmt.Errorf("ask Slurm for the job: %w", err)
	case len(ids) > 0:
		d.Log.Info("Slurm has the job already", "job", ids[0])
		return d.taken(ctx, Prepared{Keep: true}, rec, ids[0], nil)
	}
	if err := d.started(rec); err != nil {
		return rec, err
	}
	script, err := transfer.ReadFile(d.FS, path.Join(rec.JobDir, jobdir.ScriptName), maxSmall)
	if err != nil {
		return rec, fault.New(fault.Job, fmt.Errorf("what was prepared is gone: %w", err), "run job-prep again, with all its flags")
	}
	if manifest.DigestOf(script) != rec.Script {
		return rec, fault.New(fault.Integrity, errors.New("the job's script was altered since it was prepared"),
			"run job-prep again, with all its flags")
	}
	until, err := d.expiry(rec)
	if err != nil {
		return rec, err
	}
	if script, err = d.complete(ctx, script, rec); err != nil {
		return rec, err
	}
	return Submit(ctx, d, Prepared{Record: rec, Script: script, Keep: keep, Until: until})
}

// expiry returns until when a run's manifest is good, and fails if that is over.
func (d Deps) expiry(rec submission.Record) (time.Time, error) {
	b, err := transfer.ReadFile(d.FS, path.Join(rec.JobDir, jobdir.ManifestName), maxSmall)
	if err != nil {
		return time.Time{}, fault.New(fault.Job, fmt.Errorf("what was prepared is gone: %w", err), "run job-prep again, with all its flags")
	}
	m, digest, err := manifest.Parse(b)
	if err == nil && digest != rec.Manifest {
		err = errors.New("it is another")
	}
	if err != nil {
		return time.Time{}, fault.New(fault.Integrity, fmt.Errorf("the job's manifest was altered since it was prepared: %w", err),
			"run job-prep again, with all its flags")
	}
	if !time.Now().Before(m.Expires) {
		return time.Time{}, fault.New(fault.Job, fmt.Errorf("the job was prepared to begin before %s, which is over",
			m.Expires.Format(time.RFC3339)), "run job-prep again, with all its flags; --valid says how long a job may wait")
	}
	return m.Expires, nil
}

// started fails if the job ran, which its directory shows longer than Slurm does.
func (d Deps) started(rec submission.Record) error {
	_, err := d.FS.Lstat(rec.LogFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.New(fault.Job,
		fmt.Errorf("the job of run %s was submitted and has run; Slurm does not know its number any more", rec.Run[:12]),
		"sealbatch results "+rec.Run[:12])
}
