package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// openJob returns the record that ref names, with a client. What this machine remembers comes first. Of a job that
// was submitted elsewhere it is made of the job's directory, by what the key service says, and kept.
func openJob(ctx context.Context, a *app, cf clientFlags, store submission.Store, ref string,
) (*client, submission.Record, error) {
	ref = strings.TrimPrefix(ref, transfer.At("")) // a path as messages show it
	rec, missing := store.Find(ref)
	if missing != nil && (!errors.Is(missing, submission.ErrNotFound) || errors.Is(missing, submission.ErrDamaged)) {
		return nil, rec, notListed(missing)
	}
	_, noNumber := strconv.ParseUint(ref, 10, 32)
	isDir := strings.HasPrefix(ref, "/") || strings.HasPrefix(path.Base(ref), jobdir.Prefix)
	if missing != nil && noNumber != nil && !isDir {
		return nil, rec, notListed(missing)
	}
	c, err := loadClient(ctx, a, cf)
	if err == nil && missing == nil && rec.Found { // Slurm's numbers begin anew some day
		fmt.Fprintf(a.stderr, "note: %s was submitted elsewhere, on %s\n", text.Printable(transfer.At(rec.JobDir)),
			rec.Submitted.Local().Format(time.DateTime))
	}
	if err != nil || missing == nil {
		return c, rec, err
	}
	if !strings.HasPrefix(ref, "/") && noNumber != nil { // a directory, seen from where one is
		here, err := filepath.Abs(ref)
		if err != nil || !c.conf.Supercomputer.Local {
			return nil, rec, fault.New(fault.Usage, missing, "name a job's directory at the site by its whole path, from / on")
		}
		return openJob(ctx, a, cf, store, here)
	}
	if rec, err = c.findElsewhere(ctx, store, ref); err != nil {
		c.close()
		return nil, rec, fmt.Errorf("%.200q was not submitted from here: %w", ref, notListed(err))
	}
	return c, rec, nil
}

// findElsewhere returns the record of a job that was submitted elsewhere, by its number or by its directory.
func (c *client) findElsewhere(ctx context.Context, store submission.Store, ref string) (submission.Record, error) {
	find, err := c.finder(ctx)
	if err != nil {
		return submission.Record{}, err
	}
	var found results.Found
	if id, bad := strconv.ParseUint(ref, 10, 32); bad != nil {
		found, err = find.Dir(ctx, ref)
	} else if found, err = find.Job(ctx, uint32(id)); errors.Is(err, results.ErrUnknownJob) {
		err = c.unknownJob(ctx, slurm.JobID(ref), err)
	}
	if err != nil {
		return submission.Record{}, err
	}
	return c.remember(store, found)
}

// findJob returns the record that ref names on this machine.
func findJob(store submission.Store, ref string) (submission.Record, error) {
	rec, err := store.Find(ref)
	asked := errors.Is(err, submission.ErrNotFound) || errors.Is(err, submission.ErrAmbiguous)
	if asked && !errors.Is(err, submission.ErrDamaged) {
		err = fault.New(fault.Usage, err,
			"sealbatch results --list shows them; a job is known on the machine that prepared it")
	}
	return rec, err
}

// notListed adds what helps to the error of a job that is not found, or not alone.
func notListed(err error) error {
	asked := errors.Is(err, submission.ErrNotFound) || errors.Is(err, submission.ErrAmbiguous)
	if !asked || errors.Is(err, submission.ErrDamaged) {
		return err
	}
	return fault.New(fault.Usage, err, "sealbatch results --list shows those; others are found by Slurm's number "+
		"once they have begun, or by the directory that job-prep printed")
}

// finder connects to the site, and finds jobs there.
func (c *client) finder(ctx context.Context) (results.Finder, error) {
	f := results.Finder{Keys: c.keys, Cluster: c.conf.Supercomputer.Cluster, Address: c.conf.Supercomputer.Address}
	var err error
	if f.Trust, err = c.jobTrust(ctx); err != nil {
		return f, err
	}
	if f.Service, err = c.keys.Service(ctx); err != nil {
		return f, err
	}
	err = c.connect(ctx)
	f.FS = c.fs
	return f, err
}

// jobTrust returns who is trusted to have submitted a job: the keys of one's own account, and configured signers
// whose line names that.
func (c *client) jobTrust(ctx context.Context) (sshid.Trust, error) {
	t, err := c.trust(ctx)
	if err != nil || len(t.Allowed) == 0 {
		return t, err
	}
	own, err := t.Others()
	t.Allowed = forJobs(t.Allowed, own)
	return t, err
}

// forJobs returns lines of allowed signers as they count for jobs. One without namespaces= was written for info files:
// whoever prepares data for the user does not thereby submit the user's jobs. Own are the account's keys.
func forJobs(lines, own []sshid.AllowedSigner) []sshid.AllowedSigner {
	lines = slices.Clone(lines)
	for i, line := range lines {
		same := func(k sshid.AllowedSigner) bool { return sshid.Fingerprint(k.Key) == sshid.Fingerprint(line.Key) }
		if len(line.Namespaces) == 0 && (line.CertAuthority || !slices.ContainsFunc(own, same)) {
			lines[i].Namespaces = []string{manifest.NamespaceInfo}
		}
	}
	return lines
}

// remember keeps what was found of a job, so that the next time this machine knows it, and says by what it is believed.
// What the machine remembers of the run already, it knows better. What the key service has forgotten, or no job
// has presented yet, is not kept: the next time is to say so again.
func (c *client) remember(store submission.Store, f results.Found) (submission.Record, error) {
	rec := f.Record
	local, err := store.Find(rec.Run)
	switch {
	case err == nil && local.Manifest != rec.Manifest:
		return rec, fault.New(fault.Integrity, fmt.Errorf("%s holds another manifest of run %s than this machine remembers",
			transfer.At(rec.JobDir), rec.Run), "")
	case err == nil:
		if local.JobID == "" { // submitted by hand, say
			local.JobID = rec.JobID
		}
		return local, nil
	case !errors.Is(err, submission.ErrNotFound) || errors.Is(err, submission.ErrDamaged):
		return rec, err
	}
	by := "your own key"
	switch f.Signer {
	case sshid.OwnPrincipal:
	case sshid.OtherPrincipal:
		by = "another key of your account"
	default:
		by = f.Signer + ", by [trust] allowed-signers"
	}
	what := "the key service confirms it"
	if !f.Confirmed {
		what = "the key service does not know this job as one of yours, or has forgotten it, so that signature alone " +
			"says whose it is"
	}
	fmt.Fprintln(c.a.stderr, text.Printable(fmt.Sprintf(
		"note: %s was not submitted from here: its manifest is signed by %s; %s", transfer.At(rec.JobDir), by, what)))
	if f.Confirmed && rec.JobID != "" {
		if err := store.Save(rec); err != nil {
			c.a.log.Warn("what the job was is not remembered here", "error", err)
		}
	}
	return rec, nil
}

// unknownJob says what Slurm knows of a job that the key service does not: it may have not begun, or have got no keys.
func (c *client) unknownJob(ctx context.Context, id slurm.JobID, unknown error) error {
	hint := "results --list shows those that were submitted from here; others are found by the directory that job-prep " +
		"printed, too"
	all, err := c.slurm().Status(ctx, []slurm.JobID{id})
	s := all[id]
	switch {
	case err != nil || s.State == slurm.Unknown || s.State == "":
		return fault.New(fault.Usage, unknown, hint)
	case s.State.Ended():
		return fault.New(fault.Empty, fmt.Errorf("%w; Slurm says that it is %s", unknown, jobState{Status: s}.ended()),
			"its directory, which job-prep printed, has its log, if it is yours: "+
				"sealbatch results DIRECTORY shows the end of it")
	}
	return fault.New(fault.Job, fmt.Errorf("%w; Slurm says that it is %s", unknown, text.Printable(string(s.State))),
		"wait until it has been given its keys")
}
