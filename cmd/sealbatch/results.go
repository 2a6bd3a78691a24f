package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/results"
	"github.com/sealbatch/sealbatch/slurm"
	"github.com/sealbatch/sealbatch/submission"
	"github.com/sealbatch/sealbatch/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

func runResults(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch results", "Fetch, check and open what a job sealed, one directory a node.", "JOB", `
sealbatch results 4711 -o results-4711`)
	var cf clientFlags
	var out, id string
	var list bool
	cf.add(f)
	f.String(&out, "directory to open them into (default: results-JOB)", []string{"o", "output"})
	f.String(&id, "age identity or SSH private key that opens them (default: the configuration's)", []string{"i", "identity"})
	f.Bool(&list, "list the jobs submitted from here instead", []string{"list"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	store, err := submission.Open("")
	if err != nil {
		return err
	}
	if list {
		return listJobs(a, store)
	}
	ref, err := oneArg(f, "JOB")
	if err != nil {
		return err
	}
	rec, err := store.Find(ref)
	if err != nil {
		return ui.Fail(ui.CodeUsage, err, "sealbatch results --list shows them; a job is known on the machine that submitted it")
	}
	if out == "" {
		out = "results-" + filepath.Base(ref)
	}
	nodes, err := fetchResults(ctx, a, cf, rec, id, out)
	if errors.Is(err, results.ErrNothing) {
		return ui.Fail(ui.CodeJob, err, "it waits or has just begun; sealbatch job-prep -f follows a job")
	}
	if err != nil {
		return err
	}
	return reportNodes(a, rec, nodes)
}

func fetchResults(ctx context.Context, a *app, cf clientFlags, rec submission.Record, id, out string) ([]results.Node, error) {
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = rec.Identity
	}
	ids, err := volume.ParseIdentityFile(id, func() ([]byte, error) { return a.passphrase("Passphrase of " + id + ": ") })
	if err != nil {
		return nil, ui.Fail(ui.CodeConfig, fmt.Errorf("the key that opens the results: %w", err), "name it with -i, or under [results] identity")
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.hasEnded(ctx, rec); err != nil {
		return nil, err
	}
	return results.Fetch(ctx, results.Deps{FS: c.fs, Identities: ids, Log: a.log, Progress: c.progress}, rec, out)
}

// hasEnded fails while the job waits or runs: what it has not sealed yet would
// look like what a killed job left. That Slurm does not know the job any more,
// or cannot be asked, does not keep results from their owner.
func (c *client) hasEnded(ctx context.Context, rec submission.Record) error {
	id, err := slurm.ParseJobID(rec.JobID)
	if err != nil {
		return nil // submitted by hand
	}
	all, err := c.slurm().Status(ctx, []slurm.JobID{id})
	s := all[id].State
	if err != nil || s == slurm.Unknown || s.Ended() {
		return nil
	}
	return ui.Fail(ui.CodeJob, fmt.Errorf("job %s has not ended: it is %s", id, s), "wait for it, or end it with scancel "+rec.JobID)
}

// reportNodes says what came of each node; directories go to standard output.
func reportNodes(a *app, rec submission.Record, nodes []results.Node) error {
	var failed error
	if n := rec.Nodes - len(nodes); n > 0 {
		failed = ui.Fail(ui.CodeJob, fmt.Errorf("%d of %d nodes left nothing: they never came as far as their attestation, or it was removed", n, rec.Nodes), "the job's log says more: "+rec.LogFile)
		ui.PrintError(a.stderr, failed)
	}
	for _, n := range nodes {
		if n.Err != nil {
			fmt.Fprintf(a.stderr, "%s: ", n.Name)
			ui.PrintError(a.stderr, n.Err)
			failed = errors.Join(failed, n.Err)
			continue
		}
		fmt.Fprintf(a.stderr, "%s: %s\n", n.Name, verdict(n))
		if n.Dir != "" {
			fmt.Fprintln(a.stdout, n.Dir)
		}
	}
	if failed != nil {
		return exitStatus(exitCode(failed))
	}
	return nil
}

// verdict says in one line what a node's results are worth.
func verdict(n results.Node) string {
	switch {
	case n.Receipt == nil:
		return fmt.Sprintf("killed before it could seal; what it had written is recovered: each block is genuine, but files may be missing or rolled back (tier %s)", n.Tier)
	case n.Dir == "":
		return fmt.Sprintf("no results: %s (tier %s)", n.Receipt.Reason, n.Tier)
	case !n.Sealed:
		return fmt.Sprintf("%s, exit code %d; not sealed, recovered from its working volume: each block is genuine, but files may be missing or rolled back (tier %s)",
			n.Receipt.Reason, n.Receipt.Exit, n.Tier)
	}
	return fmt.Sprintf("%s, exit code %d; sealed and signed by the job (tier %s; until then the outputs lay on: %s)",
		n.Receipt.Reason, n.Receipt.Exit, n.Tier, n.Receipt.Output.Until)
}

func listJobs(a *app, store submission.Store) error {
	all, err := store.List()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tRUN\tNAME\tSUBMITTED\tDIRECTORY")
	for _, r := range all {
		id := r.JobID
		if id == "" {
			id = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", id, r.Run[:12], ui.Printable(r.Name), r.Submitted.Local().Format(time.DateTime), r.JobDir)
	}
	return w.Flush()
}

// prompt asks a question of an SSH server on the terminal.
func (a *app) prompt(_ context.Context, p transfer.Prompt) (string, error) {
	question := ui.Printable(p.Target + ": " + p.Question)
	if p.Echo {
		fmt.Fprint(a.stderr, question)
		var answer string
		_, err := fmt.Fscanln(a.stdin, &answer)
		return answer, err
	}
	b, err := a.passphrase(question)
	return string(b), err
}
