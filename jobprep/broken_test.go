package jobprep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
)

// queue is a Slurm that remembers the work directories and scripts of the jobs that it was given.
type queue struct {
	dirs    []string
	scripts []string
	refuse  string // what sbatch says instead of taking a job
	times   bool   // takes the job, and fails all the same
	down    bool   // squeue does not answer
	forgets bool
}

func (q *queue) Run(ctx context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	line := strings.Join(argv, " ")
	switch {
	case line == "id -un":
		return []byte("alice\n"), nil, 0, nil
	case argv[0] == "sh": // removing
		return transfer.Local{}.Run(ctx, argv, stdin)
	case strings.Contains(line, " sbatch "):
		b, err := io.ReadAll(stdin)
		if err != nil {
			return nil, nil, 0, err
		}
		if q.refuse != "" && !q.times {
			return nil, []byte(q.refuse), 1, nil
		}
		options, err := slurm.ParseDirectives(string(b))
		if err != nil {
			return nil, nil, 0, err
		}
		for _, o := range options {
			if o.Key == "comment" {
				q.dirs = append(q.dirs, o.Value)
			}
		}
		q.scripts = append(q.scripts, string(b))
		if q.times {
			return nil, []byte(q.refuse), 1, nil
		}
		return fmt.Appendf(nil, "%d\n", len(q.dirs)), nil, 0, nil
	case strings.Contains(line, " squeue ") && q.down:
		return nil, []byte("slurm_load_jobs error: Unable to contact slurm controller"), 1, nil
	case strings.Contains(line, " squeue ") && !q.forgets:
		var out []byte
		for i, o := range q.dirs {
			out = fmt.Appendf(out, "%20d%8200s\n", i+1, o)
		}
		return out, nil, 0, nil
	}
	return nil, nil, 0, nil
}

var errDead = &transfer.Error{Kind: transfer.ErrConnect, What: "this process is dead", Err: errors.New("killed")}

// mortal is a process's way to the world. It dies at an action, before or after
// that takes effect; nothing that it does afterwards has any.
type mortal struct {
	transfer.Local
	Keys
	queue *queue
	count int
	at    int
	after bool
}

func (m *mortal) act(do func() error) error {
	m.count++
	if m.at > 0 && (m.count > m.at || m.count == m.at && !m.after) {
		return errDead
	}
	err := do()
	if m.count == m.at {
		return errDead
	}
	return err
}

func (m *mortal) Mkdir(p string, mode fs.FileMode) error {
	return m.act(func() error { return m.Local.Mkdir(p, mode) })
}

func (m *mortal) Create(p string, mode fs.FileMode) (f transfer.WriteFile, err error) {
	err = m.act(func() (err error) { f, err = m.Local.Create(p, mode); return err })
	return f, err
}

func (m *mortal) Rename(from, to string) error {
	return m.act(func() error { return m.Local.Rename(from, to) })
}

func (m *mortal) Remove(p string) error { return m.act(func() error { return m.Local.Remove(p) }) }

func (m *mortal) ReadDir(p string) (out []fs.FileInfo, err error) {
	err = m.act(func() (err error) { out, err = m.Local.ReadDir(p); return err })
	return out, err
}

func (m *mortal) RegisterJob(
	ctx context.Context, signed, signature, private []byte, e keyapi.Expect,
) (i keyapi.ManifestInfo, err error) {
	err = m.act(func() (err error) { i, err = m.Keys.RegisterJob(ctx, signed, signature, private, e); return err })
	return i, err
}

func (m *mortal) NewToken(ctx context.Context, d manifest.Digest, node string) (k keyapi.Token, err error) {
	err = m.act(func() (err error) { k, err = m.Keys.NewToken(ctx, d, node); return err })
	return k, err
}

func (m *mortal) Run(ctx context.Context, argv []string, stdin io.Reader) (out, errOut []byte, exit int, err error) {
	err = m.act(func() (err error) { out, errOut, exit, err = m.queue.Run(ctx, argv, stdin); return err })
	return out, errOut, exit, err
}

// world is s's with a process that dies at an action; 0 for never.
func (s *site) world(q *queue, at int, after bool) Deps {
	m := &mortal{Keys: s.service.Client(s.t, s.alice), queue: q, at: at, after: after}
	d := s.d
	d.FS, d.Keys, d.Slurm = m, m, slurm.Commands{Runner: m}
	return d
}

// jobPrep is the command.
func jobPrep(ctx context.Context, d Deps, o Options) (submission.Record, error) {
	p, err := Prepare(ctx, d, o)
	if err != nil {
		return submission.Record{}, err
	}
	defer p.Close()
	return Submit(ctx, d, p)
}

// TestKilledAnywhere kills job-prep at each of its actions; job-prep --continue
// ends with one job in Slurm, or with nothing at all.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cleared, found, submitted := 0, 0, 0
	for n := 1; ; n++ {
		if n > 200 {
			t.Fatal("it never comes to its end")
		}
		died := false
		for _, after := range []bool{false, true} {
			q := &queue{}
			rec, err := jobPrep(t.Context(), s.world(q, n, after), s.o)
			died = died || err != nil
			before := len(q.dirs)
			if err == nil && (rec.JobID != "1" || before != 1) {
				t.Errorf("action %d: no error, job %q of %d", n, rec.JobID, before)
			}
			all, err := s.d.Store.List()
			check(t, err)
			if len(all) > 1 {
				t.Fatalf("action %d: %d records", n, len(all))
			}
			for range 2 { // once more is no harm
				for _, rec := range all {
					switch got, err := Continue(t.Context(), s.world(q, 0, false), rec, false); {
					case rec.Stage == submission.Preparing:
						cleared++
						if err == nil || fault.Hint(err) == "" {
							t.Errorf("action %d: continued what was not ready: %+v, %v", n, got, err)
						}
					case err != nil || got.JobID != "1":
						t.Errorf("action %d (%v), stage %q: %+v, %v", n, after, rec.Stage, got, err)
					case rec.JobID == "" && before == 1:
						found++
					case rec.JobID == "":
						submitted++
					}
				}
				if all, err = s.d.Store.List(); err != nil {
					t.Fatal(err)
				}
			}
			dirs := s.jobDirs()
			if len(q.dirs) > 1 || len(dirs) != len(q.dirs) || len(all) != len(dirs) {
				t.Fatalf("action %d (%v): %d jobs, directories %q, records %+v", n, after, len(q.dirs), dirs, all)
			}
			for _, r := range all {
				check(t, s.d.Store.Remove(r.Run))
				check(t, os.RemoveAll(r.JobDir))
			}
		}
		if !died {
			break
		}
	}
	if cleared < 20 || found == 0 || submitted == 0 {
		t.Errorf("cleared %d times, found in the queue %d times, submitted afterwards %d times", cleared, found, submitted)
	}
}

func TestSbatchRefuses(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for name, c := range map[string]struct {
		q          queue
		jobs, dirs int
		hint       string
	}{
		"refused":                       {queue{refuse: "invalid partition specified: x"}, 0, 0, "nothing was submitted"},
		"timed out, but taken":          {queue{refuse: "Socket timed out on send/recv operation", times: true}, 1, 1, ""},
		"refused, and squeue is silent": {queue{refuse: "Unable to contact slurm controller", down: true}, 0, 1, "job-prep --continue"},
		"taken, and squeue is silent":   {queue{refuse: "Socket timed out", times: true, down: true}, 1, 1, "job-prep --continue"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, q := shared.site(t), &c.q
			rec, err := jobPrep(t.Context(), s.world(q, 0, false), s.o)
			if (err == nil) != (c.hint == "") || !strings.Contains(fault.Hint(err), c.hint) ||
				(err == nil && rec.JobID != "1") || (err != nil && (fault.ClassOf(err) != fault.Slurm || !strings.Contains(err.Error(), q.refuse))) {
				t.Errorf("%+v, %v; %s", rec, err, fault.Hint(err))
			}
			if len(q.dirs) != c.jobs || len(s.jobDirs()) != c.dirs {
				t.Errorf("%d jobs, directories %q", len(q.dirs), s.jobDirs())
			}
			if !q.down {
				return
			}
			q.down, q.refuse, q.times = false, "", false
			if got, err := Continue(t.Context(), s.world(q, 0, false), rec, false); err != nil || got.JobID != "1" || len(q.dirs) != 1 {
				t.Errorf("continued: %+v, %v; %d jobs", got, err, len(q.dirs))
			}
		})
	}
}

func TestContinueRefuses(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for name, c := range map[string]struct {
		want   string
		code   fault.Class
		change func(s *site, rec submission.Record) error
	}{
		"it has run": {"was submitted and has run", fault.Job,
			func(_ *site, rec submission.Record) error { return os.WriteFile(rec.LogFile, nil, 0o600) }},
		"script altered": {"was altered", fault.Integrity, func(_ *site, rec submission.Record) error {
			return os.WriteFile(filepath.Join(rec.JobDir, jobdir.ScriptName), []byte("#!/bin/sh\n"), 0o600)
		}},
		"directory gone": {"is gone", fault.Job, func(_ *site, rec submission.Record) error { return os.RemoveAll(rec.JobDir) }},
		"at work": {"at work", fault.Other, func(s *site, rec submission.Record) error {
			_, err := s.d.Store.Lock(rec.Run)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, q := shared.site(t), &queue{}
			d := s.world(q, 0, false)
			p, err := Prepare(t.Context(), d, s.o)
			check(t, err)
			p.Close()
			check(t, c.change(s, p.Record))
			if _, err := Continue(t.Context(), d, p.Record, false); err == nil || !strings.Contains(err.Error(), c.want) ||
				fault.ClassOf(err) != c.code || fault.Hint(err) == "" {
				t.Errorf("%v (class %s); %s", err, fault.ClassOf(err), fault.Hint(err))
			}
			if len(q.dirs) > 0 {
				t.Error("it was submitted")
			}
		})
	}
}

// TestContinueWithTokens: the tokens of a run that was broken off before it was
// submitted are nowhere; it gets new ones.
func TestContinueWithTokens(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for _, byHand := range []bool{false, true} {
		s, q := shared.site(t), &queue{}
		s.o.Tier, s.o.Attest, s.o.ByHand = manifest.TierC, keyapi.EvidenceToken, byHand
		p, err := Prepare(t.Context(), s.world(q, 0, false), s.o)
		check(t, err)
		p.Close()
		rec, err := s.d.Store.Find(p.Record.Run)
		check(t, err)
		if rec, err = Continue(t.Context(), s.world(q, 0, false), rec, false); err != nil || rec.JobID != "1" || len(q.scripts) != 1 {
			t.Fatalf("%+v, %v, %d jobs", rec, err, len(q.scripts))
		}
		if slurm.NeedsInput([]byte(q.scripts[0])) || byHand != (q.scripts[0] == string(p.Script)) {
			t.Errorf("by hand: %v; submitted:\n%s", byHand, q.scripts[0])
		}
	}
}

// TestInterruptedSubmit is a Ctrl-C while sbatch has the job.
func TestInterruptedSubmit(t *testing.T) {
	t.Parallel()
	s, q := newSite(t), &queue{}
	d := s.world(q, 0, false)
	p, err := Prepare(t.Context(), d, s.o)
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	d.Slurm.Runner = stopping{q, cancel}
	_, err = Submit(ctx, d, p)
	p.Close()
	if fault.ClassOf(err) != fault.Interrupted || !strings.Contains(fault.Hint(err), "--continue "+p.Record.Run[:12]) {
		t.Errorf("%v; %s", err, fault.Hint(err))
	}
	rec, err := d.Store.Find(p.Record.Run)
	check(t, err)
	if rec, err = Continue(t.Context(), s.world(q, 0, false), rec, false); err != nil || rec.JobID != "1" || len(q.dirs) != 1 {
		t.Errorf("%+v, %v, %d jobs", rec, err, len(q.dirs))
	}
}

// stopping is interrupted once sbatch has the job.
type stopping struct {
	*queue
	cancel func()
}

func (s stopping) Run(ctx context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	if ctx.Err() != nil {
		return nil, nil, 0, ctx.Err()
	}
	_, _, _, _ = s.queue.Run(ctx, argv, stdin)
	s.cancel()
	return nil, nil, 0, ctx.Err()
}

// TestFollowReconnects loses the connection under a followed job.
func TestFollowReconnects(t *testing.T) {
	t.Parallel()
	s, q := newSite(t), &queue{}
	d := s.world(q, 0, false)
	rec, err := jobPrep(t.Context(), d, s.o)
	check(t, err)
	reached := 0
	dead := s.world(q, 1, false)
	dead.Reconnect = func(context.Context) (transfer.FS, slurm.Runner, error) {
		reached++
		return transfer.Local{}, runner(func(argv []string, _ string) (string, string, int) {
			return fmt.Sprintf("%20s%24s%16s%25s%128s%16384s\n", rec.JobID, "COMPLETED", "0", "1", "None", "cn1"), "", 0
		}), nil
	}
	code, err := Follow(t.Context(), dead, rec, FollowOptions{Out: io.Discard, Log: true})
	if err != nil || code != 0 || reached != 1 {
		t.Errorf("exit %d, %v, %d connections", code, err, reached)
	}
}
