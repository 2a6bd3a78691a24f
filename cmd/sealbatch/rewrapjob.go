package main

import (
	"context"
	"fmt"
	"slices"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/submission"
)

// resultIdentities reads the keys that may open a job's results: those given, else
// those of the configuration, as it was when the job was submitted and as it is.
func (c *client) resultIdentities(rec submission.Record, given []string) ([]age.Identity, error) {
	files := given
	if len(files) == 0 {
		files = c.identityFiles()
		if rec.Identity != "" && !slices.Contains(files, rec.Identity) {
			files = append([]string{rec.Identity}, files...)
		}
	}
	ids, err := c.identities(files)
	if err != nil {
		return nil, fault.New(fault.Config, fmt.Errorf("the key that opens the results: %w", err),
			orHint(err, "name it with -i, or under [results] identity"))
	}
	return ids, nil
}

// rewrapped returns where the wrapped keys of a job's results are kept.
func rewrapped(store submission.Store, rec submission.Record) func(string) ([]byte, error) {
	return func(volumeID string) ([]byte, error) { return store.Key(rec.Run, volumeID) }
}

// rewrapJob wraps the keys of a job's results to other recipients, and keeps them on
// this machine, beside what it remembers of the job.
func rewrapJob(ctx context.Context, a *app, cf clientFlags, ref, id string, rcpts []age.Recipient, yes bool) error {
	store, err := submission.Open("")
	if err != nil {
		return err
	}
	c, rec, err := openJob(ctx, a, cf, store, ref)
	if err != nil {
		return err
	}
	defer func() { c.close() }()
	var given []string
	if id != "" {
		given = []string{id}
	}
	ids, err := c.resultIdentities(rec, given)
	if err != nil {
		return err
	}
	own := ids
	if now, err := c.identities(c.identityFiles()); err == nil {
		own = append(now, ids...)
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	if _, err := c.state(ctx, rec); err != nil {
		return err
	}
	if err := a.confirmWithout(ctx, yes, "the results of job "+ref, own, rcpts); err != nil {
		return err
	}
	n, err := results.Rewrap(ctx, results.Deps{FS: c.fs, Identities: ids, Log: a.log, Progress: c.progress, Rewrapped: rewrapped(store, rec)},
		rec, rcpts, func(volumeID string, wrapped []byte) error { return store.SaveKey(rec.Run, volumeID, wrapped) })
	if n > 0 || err == nil {
		fmt.Fprintf(a.stderr, "note: %d keys are wrapped anew and kept on this machine, where sealbatch results finds them; "+
			"what lies at the site still opens to those of before\n", n)
	}
	if err != nil {
		return fmt.Errorf("not all keys of the results of job %s are wrapped anew: keep the old key: %w", ref, err)
	}
	return nil
}
