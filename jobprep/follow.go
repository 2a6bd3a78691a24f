package jobprep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// Intervals of Follow. Slurm's controller is shared by everybody and is asked
// seldom; the job's directory, which is asked often, shows when the end is near.
const (
	lookInterval = time.Second
	askFirst     = 5 * time.Second
	askMost      = time.Minute
	// maxLook bounds how much of the log one look takes, in bytes.
	maxLook = 1 << 20
)

// FollowOptions say what to show; Out gets it.
type FollowOptions struct {
	Out io.Writer
	Log bool // the job's log besides its states
	// Keep goes on with a job that will not start as it was submitted.
	Keep bool
}

// Follow reports a job's states, and its log, until the job has ended, and
// returns the job's exit code: that of its script, 128+signal, or
// NoExitCode where Slurm knows none. When Slurm has forgotten the job, the
// nodes' signed receipts have the last word. A job that will not start, or has
// ended without having begun, is an error.
func Follow(ctx context.Context, d Deps, rec submission.Record, o FollowOptions) (int, error) {
	f := &follower{d: d, rec: rec, o: o, id: slurm.JobID(rec.JobID), nodes: rec.Nodes}
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for ask, next := askFirst, time.Now(); ; {
		shown, done := f.offset, f.done
		f.tail(false)
		f.done = f.receipts() >= f.nodes
		// A log that has gained a line, which is seldom, may have been told of a
		// kill: of that there is no receipt.
		if soon := time.Now().Add(askFirst); f.offset > shown && next.After(soon) {
			next = soon
		}
		if f.done && !done || !time.Now().Before(next) {
			ended, err := f.ask(ctx)
			if err != nil || ended {
				f.drain()
				return f.exit(), err
			}
			next = time.Now().Add(ask)
			if ask = min(ask*3/2, askMost); f.done || f.unknown > 0 {
				ask = askFirst // the end is near
			}
		}
		select {
		case <-ctx.Done():
			return 0, fault.New(fault.Interrupted, ctx.Err(),
				"the job itself goes on: scancel "+rec.JobID+" ends it, "+continueHint(rec)+" -f follows it again")
		case <-tick.C:
		}
	}
}

// follower is what Follow remembers between looks.
type follower struct {
	d        Deps
	rec      submission.Record
	o        FollowOptions
	id       slurm.JobID
	nodes    int // that are to leave a receipt
	last     slurm.Status
	shown    string
	offset   int64
	done     bool      // every node has left a receipt
	ending   time.Time // since when it has been ending, though all is done
	failures int
	unknown  int // answers in a row that did not know the job
	never    int // answers in a row by which it does not start
}

const (
	// maxFailures is how many answers of Slurm in a row may fail before Follow gives up.
	maxFailures = 10
	// maxUnknown is the same for answers that do not know the job: slurmctld knows a
	// job from the moment in which sbatch gives its number until MinJobAge after its
	// end, and accounting may be a little behind.
	maxUnknown = 4
	// maxNever is how many answers in a row say that a job will not start.
	maxNever = 2
	// maxEnding is how long Slurm may take to end a job whose nodes are done.
	maxEnding = 5 * time.Minute
)

// ask asks Slurm for the state and shows it when it changed. It reports
// whether the job has ended.
func (f *follower) ask(ctx context.Context) (ended bool, err error) {
	all, err := f.d.Slurm.Status(ctx, []slurm.JobID{f.id})
	if err != nil {
		if f.failures++; f.failures >= maxFailures && ctx.Err() == nil {
			return false, fault.WithHint(fmt.Errorf("follow job %s: %w", f.id, err),
				"the job itself goes on; to follow it again: "+continueHint(f.rec)+" -f")
		}
		if errors.Is(err, transfer.ErrConnect) && f.d.Reconnect != nil {
			f.reconnect(ctx)
		}
		return false, nil
	}
	f.failures = 0
	s := all[f.id]
	if s.State == slurm.Unknown {
		return f.forgotten()
	}
	f.unknown = 0
	if s.Began() && !f.last.Began() {
		f.nodes = NodesGiven(ctx, f.d.Slurm, f.rec, s)
	}
	f.last = s
	f.show(s)
	if s.State.Ended() {
		return true, f.unstarted(ctx, s)
	}
	return f.stuck(s)
}

// forgotten judges an answer of Slurm that does not know the job.
func (f *follower) forgotten() (ended bool, err error) {
	f.unknown++
	switch {
	case f.done:
		return true, nil
	case f.unknown < maxUnknown:
		return false, nil
	}
	return true, fault.New(fault.Job,
		fmt.Errorf("job %s is not known to Slurm any more: it has ended, and %d of its %d nodes have left a signed receipt",
			f.id, f.receipts(), f.nodes),
		"it was probably killed; sealbatch results "+f.rec.JobID+" opens what it left")
}

// stuck ends the following of a job that would be waited for without an end.
func (f *follower) stuck(s slurm.Status) (ended bool, err error) {
	outlook, _ := s.Waiting()
	if s.State != slurm.Pending || outlook != slurm.Never || f.o.Keep {
		f.never = 0
	} else if f.never++; f.never >= maxNever {
		return false, fault.New(fault.Slurm, errors.New(Describe(f.id, s)),
			"scancel "+f.rec.JobID+" cancels it, then "+continueHint(f.rec)+" removes what was prepared")
	}
	switch {
	case s.State != slurm.Completing || !f.done:
		f.ending = time.Time{}
	case f.ending.IsZero():
		f.ending = time.Now()
	case time.Since(f.ending) >= maxEnding:
		f.d.Log.Warn("all nodes of the job are done; Slurm has not ended it yet")
		return true, nil
	}
	return false, nil
}

// unstarted returns why a job ended without having begun, and removes what was prepared for it if nobody else is at
// work on that; nil if it has begun.
func (f *follower) unstarted(ctx context.Context, s slurm.Status) error {
	err := f.d.unstarted(f.rec, s)
	if err == nil {
		return nil
	}
	unlock, lockErr := f.d.Store.Lock(f.rec.Run)
	if lockErr != nil {
		return fault.WithHint(err, "what was prepared is left: "+continueHint(f.rec)+" removes it")
	}
	defer unlock()
	return f.d.withdraw(ctx, f.rec, err)
}

// reconnect replaces a connection that broke; if that fails, the next look tries again.
func (f *follower) reconnect(ctx context.Context) {
	fsys, run, err := f.d.Reconnect(ctx)
	if err != nil {
		f.d.Log.Warn("the login node cannot be reached; the job itself goes on", "error", err)
		return
	}
	f.d.FS, f.d.Slurm.Runner = fsys, run
}

func (f *follower) show(s slurm.Status) {
	if line := Describe(f.id, s); line != f.shown {
		f.shown = line
		fmt.Fprintln(f.o.Out, text.Printable(line))
	}
}

// tail copies the whole lines that the log has gained, with everything
// escaped that could steer a terminal. That it is not there yet is normal. It
// reports whether there may be more; rest takes the last line even if it has no end.
func (f *follower) tail(rest bool) (more bool) {
	if !f.o.Log {
		return false
	}
	b, err := f.gained()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.d.Log.Debug("log", "error", err)
		}
		return false
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	if rest || (whole == 0 && len(b) == maxLook) {
		whole = len(b) // a line without an end, or longer than one look
	}
	f.offset += int64(whole)
	for line := range bytes.Lines(b[:whole]) {
		fmt.Fprintln(f.o.Out, text.Printable(string(line)))
	}
	return whole > 0 && len(b) == maxLook
}

// gained returns what the log has beyond what was shown, up to maxLook bytes.
func (f *follower) gained() ([]byte, error) {
	r, err := f.d.FS.Open(f.rec.LogFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.NewSectionReader(r, f.offset, maxLook))
}

// drain copies all that is left of an ended job's log.
func (f *follower) drain() {
	for f.tail(false) {
	}
	f.tail(true)
}

// receipts counts the nodes that have signed a receipt.
func (f *follower) receipts() int {
	nodes, err := f.d.FS.ReadDir(jobdir.NodePath(f.rec.JobDir, ""))
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range nodes {
		if _, err := f.d.FS.Stat(jobdir.NodePath(f.rec.JobDir, e.Name(), jobdir.ReceiptName)); err == nil {
			n++
		}
	}
	return n
}

// NoExitCode is what Follow returns for a job that failed without an exit code of its own.
const NoExitCode = -1

// exit returns the code of a job that has ended, or NoExitCode.
func (f *follower) exit() int {
	if code, ok := f.last.ScriptExit(); ok {
		return code
	}
	if f.last.State.Ended() {
		return NoExitCode
	}
	return f.receiptExit()
}

// receiptExit returns the highest exit code in the nodes' receipts, each checked.
func (f *follower) receiptExit() int {
	code := 0
	nodes, err := f.d.FS.ReadDir(jobdir.NodePath(f.rec.JobDir, ""))
	if err != nil {
		return NoExitCode
	}
	for _, e := range nodes {
		files, err := jobdir.ReadFiles(func(name string) ([]byte, error) {
			return transfer.ReadFile(f.d.FS, jobdir.NodePath(f.rec.JobDir, e.Name(), name), maxSmall)
		})
		if err != nil {
			return NoExitCode
		}
		v, err := jobdir.Check(f.rec.Expected(), e.Name(), files)
		if err != nil || v.Receipt == nil || v.Receipt.Exit < 0 {
			return NoExitCode
		}
		if v.Receipt.Exit == 0 && v.Receipt.Reason != jobdir.Completed {
			return NoExitCode // the application went well, what came after it did not
		}
		code = max(code, v.Receipt.Exit)
	}
	return code
}
