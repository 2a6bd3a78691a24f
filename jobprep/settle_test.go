package jobprep

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/slurm"
)

// oneJob is a Slurm that holds one job, from sbatch on; it answers as Slurm 24.11 does.
type oneJob struct {
	sbatch    string // what sbatch says if it fails
	state     string
	reason    string
	exit      string
	nodes     string
	start     string // "" for unknown
	stubborn  bool   // scancel does nothing
	comment   string
	submitted bool
	cancelled bool
}

func (q *oneJob) run(argv []string, stdin string) (string, string, int) {
	switch {
	case slices.Contains(argv, "sbatch"):
		q.submitted = true
		if q.sbatch != "" {
			return "", "sbatch: error: " + q.sbatch, 1
		}
		return "41\n", "", 0
	case slices.Contains(argv, "scancel"):
		q.cancelled = argv[len(argv)-1] == "41"
		if !q.stubborn {
			q.state = "CANCELLED"
		}
		return "", "", 0
	case slices.Contains(argv, "--me"):
		return line(argv, "41", q.comment), "", 0
	case slices.Contains(argv, "squeue") && q.submitted:
		return line(argv, "41", q.state, q.exit, cmp.Or(q.start, "N/A"), q.reason, q.nodes), "", 0
	}
	return "", "not here", 1
}

// TestSubmitTellsTheTruth: what Slurm makes of a job is known before it is said to be submitted.
func TestSubmitTellsTheTruth(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	const unavailable = "Batch job submission failed: Requested node configuration is not available"
	for name, c := range map[string]struct {
		queue  oneJob
		force  bool
		class  fault.Class // None for one that is submitted
		says   string
		leaves bool // its directory and its record
	}{
		"waits":   {oneJob{state: "PENDING", reason: "Priority", exit: "0:0"}, false, fault.None, "", true},
		"held":    {oneJob{state: "PENDING", reason: "JobHeldUser", exit: "0:0"}, false, fault.None, "", true},
		"running": {oneJob{state: "RUNNING", reason: "None", exit: "0:0", nodes: "cn1"}, false, fault.None, "", true},
		"sbatch fails, and Slurm keeps the refused job": {oneJob{sbatch: unavailable, state: "FAILED", reason: "BadConstraints", exit: "0:1"},
			false, fault.Slurm, "not available", false},
		"refused a moment later": {oneJob{state: "FAILED", reason: "BadConstraints", exit: "0:1"},
			false, fault.Slurm, "no nodes like those", false},
		"never": {oneJob{state: "PENDING", reason: "PartitionTimeLimit", exit: "0:0"},
			false, fault.Slurm, "above the partition's", false},
		"never, and wanted so": {oneJob{state: "PENDING", reason: "PartitionTimeLimit", exit: "0:0"}, true, fault.None, "", true},
		"never, and it cannot be cancelled": {oneJob{state: "PENDING", reason: "InvalidQOS", exit: "0:0", stubborn: true},
			false, fault.Slurm, "could not be cancelled", true},
		"sbatch fails, and Slurm has the job": {oneJob{sbatch: "Socket timed out on send/recv operation", state: "PENDING",
			reason: "Resources", exit: "0:0"}, false, fault.None, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := shared.site(t)
			s.o.Force = c.force
			p, err := Prepare(t.Context(), s.d, s.o)
			check(t, err)
			defer p.Close()
			c.queue.comment = strings.TrimPrefix(p.Record.JobDir, s.scratch+"/")
			s.d.Slurm = slurm.Commands{Runner: runner(c.queue.run)}
			rec, err := Submit(t.Context(), s.d, p)
			if fault.ClassOf(err) != c.class || err != nil && !strings.Contains(err.Error(), c.says) || err == nil && rec.JobID != "41" {
				t.Errorf("Submit = %q, %v", rec.JobID, err)
			}
			if !c.leaves {
				s.nothingLeft()
			} else if _, err := s.d.Store.Find("41"); err != nil || len(s.jobDirs()) != 1 {
				t.Errorf("the job is not on record, or its directory is gone: %v", err)
			}
			if wanted := c.class != fault.None && c.queue.reason != "BadConstraints"; c.queue.cancelled != wanted {
				t.Errorf("cancelled: %v", c.queue.cancelled)
			}
		})
	}
}

// A job that ran once before it came to wait for ever has results: nothing of it is removed.
func TestCancelledJobThatRanStays(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, err := Prepare(t.Context(), s.d, s.o)
	check(t, err)
	p.Close()
	f := &followed{t: t, rec: p.Record}
	f.log("it ran\n")
	q := oneJob{state: "PENDING", reason: "DependencyNeverSatisfied", exit: "0:0", submitted: true}
	s.d.Slurm = slurm.Commands{Runner: runner(q.run)}
	if err := s.d.cancel(t.Context(), p.Record, "41", errors.New("it would wait")); !errors.Is(err, slurm.ErrSlurm) &&
		fault.ClassOf(err) != fault.Slurm {
		t.Errorf("cancel: %v", err)
	}
	if len(s.jobDirs()) != 1 {
		t.Error("its directory is gone")
	}
}

// TestTooLate: a job that begins when its keys are not released any more is no use.
func TestTooLate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var said bytes.Buffer
	s.d.Log = slog.New(slog.NewTextHandler(&said, nil))
	p, err := Prepare(t.Context(), s.d, s.o)
	check(t, err)
	q := oneJob{state: "PENDING", reason: "BeginTime", exit: "0:0", start: fmt.Sprint(time.Now().Add(30 * time.Minute).Unix())}
	s.d.Slurm = slurm.Commands{Runner: runner(q.run)}
	rec, err := Submit(t.Context(), s.d, p)
	check(t, err)
	p.Close()
	if strings.Contains(said.String(), "not released to it after") {
		t.Errorf("in half an hour, of one: %s", &said)
	}
	q.start = fmt.Sprint(time.Now().Add(2 * time.Hour).Unix())
	q.reason = "Resources"
	_, err = s.d.taken(t.Context(), p, rec, "41", nil)
	check(t, err)
	if !strings.Contains(said.String(), "not released to it after") {
		t.Errorf("in two hours, of one: %s", &said)
	}

	q.reason = "BeginTime" // which is sure
	p.Until = time.Now().Add(time.Hour)
	if _, err := s.d.taken(t.Context(), Prepared{Keep: true, Until: p.Until}, rec, "41", nil); err != nil || q.cancelled {
		t.Errorf("with --force: %v", err)
	}

	// One that was prepared, and is submitted when it is too late.
	file := filepath.Join(rec.JobDir, "manifest.json")
	b, err := os.ReadFile(file)
	check(t, err)
	m, _, err := manifest.Parse(b)
	check(t, err)
	m.Created, m.Expires = m.Created.Add(-2*time.Hour), m.Created.Add(-time.Hour)
	b, err = m.Encode()
	check(t, err)
	check(t, os.WriteFile(file, b, 0o600))
	rec.JobID, rec.Stage, rec.Manifest = "", "ready", manifest.DigestOf(b)
	q = oneJob{}
	s.d.Slurm = slurm.Commands{Runner: runner(func(argv []string, stdin string) (string, string, int) {
		if slices.Contains(argv, "--me") {
			return "", "", 0
		}
		return q.run(argv, stdin)
	})}
	if _, err := Continue(t.Context(), s.d, rec, false); fault.ClassOf(err) != fault.Job ||
		!strings.Contains(err.Error(), "which is over") || q.submitted {
		t.Errorf("Continue: %v", err)
	}
}
