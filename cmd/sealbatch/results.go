package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/noderun"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/results"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/userdirs"
	"github.com/sealbatch/sealbatch/volume"
)

func runResults(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch results", `Fetch, check and open what a job sealed, one directory a node.
A job is named by Slurm's number, its run, or its directory at the site. One that was submitted elsewhere is found by its
number, once it has been given keys, or by its directory: its manifest there must be signed by a key of your account.`, "JOB|DIRECTORY", `
sealbatch results 4711 -o results-4711
sealbatch results /scratch/project_1/etellier/sealbatch-0123456789abcdef`)
	var cf clientFlags
	var out string
	var identities []string
	var list, recovering, remove, appCode bool
	var maxIndex int64
	cf.add(f)
	f.String(&out, "directory to open them into (default: results-JOB)", []string{"o", "output"})
	f.Strings(&identities, "age identity or SSH private key that opens them\n"+
		"(default: what the configuration named when the job was submitted, and what it names now)", []string{"i", "identity"})
	f.Bool(&recovering, "open whatever can be: of damaged results what is not; where a receipt or sealed results\n"+
		"are missing or damaged, the working volume; of a job that still runs, what it has written", []string{"recover"}, ui.Whole)
	maxIndexFlag(f, &maxIndex)
	f.Bool(&remove, "when the results of all nodes are opened, remove the job's directory at the site", []string{"remove"}, ui.Whole)
	f.Bool(&appCode, "end with the application's exit code, the highest of all nodes, if all results are opened",
		[]string{"exit-code"})
	f.Bool(&list, "list the jobs that this machine knows instead", []string{"list"})
	if err := a.parse(f, args); err != nil {
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
	if out == "" && !slices.Contains(f.Given(), "output") {
		out = "results-" + filepath.Base(ref)
	}
	if err := output.CheckDirs(out); err != nil {
		return err
	}
	warnPassing(a, out)
	c, rec, err := openJob(ctx, a, cf, store, ref)
	if err != nil {
		return err
	}
	defer func() { c.close() }()
	how := fetching{identities: identities, out: out, recover: recovering, remove: remove, open: volume.OpenOptions{MaxIndex: maxIndex}}
	nodes, err := c.fetchResults(ctx, store, rec, &how)
	giveTree(filepath.Dir(out), out)
	if err != nil {
		return err
	}
	if err := reportNodes(a, rec, nodes, how); err != nil {
		return err
	}
	if how.stays != nil || !appCode {
		return how.stays
	}
	code, err := applicationCode(nodes)
	if err == nil && code != 0 {
		err = exitStatus(code)
	}
	return err
}

// warnPassing says that a directory ends with the container in which it is made: `docker compose run --rm` removes that.
func warnPassing(a *app, dir string) {
	abs, err := filepath.Abs(dir)
	if err == nil && userdirs.Container() && !userdirs.FromOutside(abs) {
		a.log.Warn("these results end with this container, since nothing is mounted where they go: name a directory with -o that is mounted, "+
			"such as /tmp/"+filepath.Base(abs), "directory", abs)
	}
}

// fetching says how to fetch results.
type fetching struct {
	identities []string
	out        string
	recover    bool
	open       volume.OpenOptions
	remove     bool
	running    bool  // set if the job has not ended
	ended      bool  // set if it has, as far as Slurm says
	nodes      int   // set to how many nodes are to have left something
	stays      error // set if the job's directory should have been removed, and was not
}

func (c *client) fetchResults(ctx context.Context, store submission.Store, rec submission.Record, how *fetching) ([]results.Node, error) {
	a := c.a
	if c.conf.Supercomputer.Local {
		if err := output.Apart(how.out, rec.JobDir); err != nil {
			return nil, err
		}
	}
	ids, err := c.resultIdentities(rec, how.identities)
	if err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	state, err := c.state(ctx, rec)
	ended := state.over()
	how.ended = ended
	rec.Nodes = c.nodesGiven(ctx, rec, state)
	how.nodes = rec.Nodes
	if err != nil {
		if !how.recover {
			return nil, err
		}
		how.running = true
		fmt.Fprintf(a.stderr, "note: %s: what follows is as it is at this moment\n", text.Printable(err.Error()))
	}
	deps := results.Deps{FS: c.fs, Identities: ids, Log: a.log, Progress: c.progress, Recover: how.recover,
		Open: how.open, Rewrapped: rewrapped(store, rec)}
	if ended {
		deps.Readable = c.readable(rec)
	}
	nodes, err := results.Fetch(ctx, deps, rec, how.out)
	err = c.whyNothing(rec, state, err)
	for i := range nodes {
		c.dropScratch(ctx, rec, &nodes[i], ended)
		nodes[i].Err = c.whyNothing(rec, state, nodes[i].Err)
	}
	if err == nil && slices.ContainsFunc(nodes, nothing) {
		for _, line := range c.logTail(rec) {
			fmt.Fprintf(a.stderr, "job's log: %s\n", line)
		}
	}
	if how.remove && err == nil {
		how.stays = c.removeJob(ctx, rec, nodes, ended)
	}
	return nodes, err
}

// reportNodes says what came of each node; directories go to standard output.
func reportNodes(a *app, rec submission.Record, nodes []results.Node, how fetching) error {
	var failed error
	if n := how.nodes - lastRun(nodes); n > 0 {
		class := fault.Job
		if how.ended {
			class = fault.Incomplete
		}
		failed = fault.New(class,
			fmt.Errorf("%d of %d nodes left nothing: they never came as far as their attestation, or it was removed", n, how.nodes),
			"the job's log says more: "+transfer.At(rec.LogFile))
		ui.PrintError(a.stderr, failed)
	}
	sayImage(a, nodes)
	for _, n := range nodes {
		failed = errors.Join(failed, reportNode(a, rec, n, how.running))
	}
	if failed != nil {
		return exitStatus(exitCode(failed))
	}
	return nil
}

// sayImage says which container image the job ran, by its receipts.
func sayImage(a *app, nodes []results.Node) {
	for _, n := range nodes {
		if r := n.Receipt; r != nil && r.Image != nil {
			fmt.Fprintln(a.stderr, "image: "+text.Printable(r.Image.String()))
			return
		}
	}
}

// lastRun counts the nodes of a job's last run: what they left before Slurm restarted it is there, too.
func lastRun(nodes []results.Node) (n int) {
	var last uint32
	for _, node := range nodes {
		switch r := jobdir.Restart(node.Name); {
		case r > last:
			last, n = r, 1
		case r == last:
			n++
		}
	}
	return n
}

func reportNode(a *app, rec submission.Record, n results.Node, running bool) error {
	say := func(format string, args ...any) { fmt.Fprintln(a.stderr, text.Printable(fmt.Sprintf(format, args...))) }
	for _, note := range n.Notes {
		say("%s: note: %s", n.Name, note)
	}
	err := n.Err
	if err != nil {
		fmt.Fprintf(a.stderr, "%s: ", n.Name)
		ui.PrintError(a.stderr, err)
	} else {
		say("%s: %s", n.Name, verdict(n, running))
	}
	for _, part := range []struct {
		word string
		of   []results.Damage
	}{
		{"damaged", n.Damaged}, {"not kept", n.Left}, {"missing", n.Missing}, {"differs from what was sealed", n.Altered},
		{"a link that leads out of the results", n.Links},
	} {
		for _, d := range part.of {
			say("%s: %s: %s: %v", n.Name, part.word, d.Path, d.Err)
		}
	}
	for _, path := range n.Unread {
		say("%s: could be an older version: %s", n.Name, path)
	}
	for _, d := range n.Changed {
		say("%s: changed on the storage after the job, of no effect here: %s: %v", n.Name, d.Path, d.Err)
	}
	if n.Dir != "" {
		fmt.Fprintln(a.stdout, n.Dir)
	}
	if err != nil {
		return err
	}
	return notAll(a, rec, n)
}

// nothing reports whether a job's node has ended, and left no results.
func nothing(n results.Node) bool { return n.Err == nil && n.Dir == "" }

// notAll returns why a node's results are not all that the job has written.
func notAll(a *app, rec submission.Record, n results.Node) error {
	switch {
	case nothing(n):
		return fault.New(fault.Empty, errors.New(n.Receipt.Reason), "")
	case len(n.Damaged) > 0:
		return fmt.Errorf("%w", n.Damaged[0].Err)
	case n.Lost+len(n.Missing) > 0:
		err := fmt.Errorf("%d entries of its results are not there, or not whole; all others are", n.Lost+len(n.Missing))
		hint := "their ciphertext stays in " + transfer.At(jobdir.NodePath(rec.JobDir, n.Name, jobdir.CipherDirName))
		if n.Lost == 0 {
			hint = "open them on another file system, with -o"
		}
		err = fault.New(fault.Incomplete, err, hint)
		fmt.Fprintf(a.stderr, "%s: ", n.Name)
		ui.PrintError(a.stderr, err)
		return err
	}
	return nil
}

// verdict returns in one line what a node's results are worth.
func verdict(n results.Node, running bool) string {
	r := n.Receipt
	if n.Before {
		return "opened before, and left as it is: " + n.Dir
	}
	if r == nil && running {
		return fmt.Sprintf("still running; what it has written so far is recovered: each block is genuine, but files "+
			"may be missing or rolled back (tier %s)", n.Tier)
	}
	if r == nil {
		return fmt.Sprintf("killed before it could seal; what it had written is recovered: each block is genuine, but "+
			"files may be missing or rolled back (tier %s)", n.Tier)
	}
	if n.Dir == "" {
		return fmt.Sprintf("no results: %s (tier %s)", meaning(r.Reason), n.Tier)
	}
	return fmt.Sprintf("%s, %s; %s%s", r.Reason, exitOf(r), worth(n), lost(n))
}

// meaning returns what a receipt's reason says, in words.
func meaning(reason string) string {
	for _, m := range noderun.ExitMeanings() {
		if m.Reason == reason {
			return m.Reason + ": " + m.Meaning
		}
	}
	return reason
}

// exitOf returns how the application ended. A runtime that could not be started, or
// waited for, has begun the step and given no code.
func exitOf(r *manifest.Receipt) string {
	switch {
	case r.Exit >= 0:
		return fmt.Sprintf("exit code %d", r.Exit)
	case slices.ContainsFunc(r.Steps, func(s manifest.Step) bool { return s.Name == noderun.StepApplication }):
		return "the application has left no exit code"
	}
	return "the application was not started"
}

// worth returns what vouches for what was opened.
func worth(n results.Node) string {
	out := n.Receipt.Output
	until := fmt.Sprintf("(tier %s; until then the outputs lay on: %s)", n.Tier, out.Until)
	switch {
	case n.Sealed:
		return "sealed and signed by the job " + until
	case n.Indexed && out.Index.Unread > 0:
		return fmt.Sprintf("indexed and signed by the job, which had no time to read %d of %d files: no other file can "+
			"be in their place, but an older version of the same can be %s",
			out.Index.Unread, out.Index.Files, until)
	case n.Indexed:
		return "indexed and signed by the job " + until
	}
	return fmt.Sprintf("not sealed, recovered from its working volume: each block is genuine, but files may be "+
		"missing or rolled back (tier %s)", n.Tier)
}

// lost returns what was lost already when the job vouched for its results.
func lost(n results.Node) string {
	text := ""
	if n.Receipt.Output.MountLost {
		text += "; the mount of its outputs died while it ran: what it wrote last may be missing"
	}
	if n.Indexed && n.Receipt.Output.Index.Torn > 0 {
		text += fmt.Sprintf("; %d entries were not whole when the job ended", n.Receipt.Output.Index.Torn)
	}
	if len(n.Damaged) > 0 {
		text += fmt.Sprintf("; %d files are damaged", len(n.Damaged))
	}
	return text
}

// listJobs prints the records that can be read, and returns an error about the others.
func listJobs(a *app, store submission.Store) error {
	all, damaged := store.List()
	if damaged != nil && !errors.Is(damaged, submission.ErrDamaged) {
		return damaged
	}
	table := ui.NewTable(ui.Column{Head: "JOB"}, ui.Column{Head: "RUN"}, ui.Column{Head: "NAME", Wrap: true},
		ui.Column{Head: "SUBMITTED", Short: len("2006-01-02 15:04")}, ui.Column{Head: "DIRECTORY", Wrap: true})
	for _, r := range all {
		id := r.JobID
		if id == "" {
			id = string(r.Stage) // how far it came
		}
		if id == "" {
			id = "-"
		}
		name := r.Name
		if r.Found {
			name = "(submitted elsewhere)"
		}
		table.Row(id, r.Run[:12], name, r.Submitted.Local().Format(time.DateTime), r.JobDir)
	}
	return errors.Join(table.Print(a.stdout), damaged)
}

// prompt asks a question of an SSH server on the terminal.
func (a *app) prompt(_ context.Context, p transfer.Prompt) (string, error) {
	question := text.Printable(p.Target + ": " + p.Question)
	if p.Echo {
		fmt.Fprint(a.stderr, question)
		var answer string
		_, err := fmt.Fscanln(a.stdin, &answer)
		return answer, err
	}
	b, err := a.passphrase(question)
	return string(b), err
}
