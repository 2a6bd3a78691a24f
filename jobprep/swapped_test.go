package jobprep

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// swapping is a site on which another member of the project exchanges the work directory: in its
// place is a tree in which the job's directory is a link.
type swapping struct {
	transfer.Local
	before int // how many are made before that
	swap   func()
}

func (s *swapping) made() {
	if s.before--; s.before == 0 {
		s.swap()
	}
}

func (s *swapping) Mkdir(path string, perm fs.FileMode) error {
	s.made()
	return s.Local.Mkdir(path, perm)
}

func (s *swapping) Create(path string, perm fs.FileMode) (transfer.WriteFile, error) {
	s.made()
	return s.Local.Create(path, perm)
}

// TestSwappedWhileLaidOut exchanges the work directory before each step of laying the job out: nothing
// that the submitter has elsewhere is replaced or lost, neither then nor when what was prepared is cleared.
func TestSwappedWhileLaidOut(t *testing.T) {
	t.Parallel()
	shared := newService(t)
	for before := 2; before < 12; before++ {
		s := shared.site(t)
		thesis, work := t.TempDir(), filepath.Join(t.TempDir(), "alice")
		own := []string{
			jobdir.ManifestName, jobdir.SignatureName, jobdir.ScriptName, jobdir.LogName, "thesis.tex",
			"bin/sealbatch", "bin/gocryptfs", "nodes/cn1/scratch/f", "scripts/input/a.sh",
		}
		for _, name := range own {
			check(t, os.MkdirAll(filepath.Join(thesis, filepath.Dir(name)), 0o700))
			check(t, os.WriteFile(filepath.Join(thesis, name), []byte("the submitter's "+name), 0o600))
		}
		if before%2 == 0 { // else there are no directories in the way, and what is made goes on elsewhere
			check(t, os.RemoveAll(filepath.Join(thesis, "bin")))
		}
		check(t, os.Mkdir(work, 0o755))
		s.o.Workdir = work
		at := ""
		s.d.FS = &swapping{before: before, swap: func() {
			made, err := filepath.Glob(work + "/sealbatch-*")
			check(t, err)
			at = filepath.Base(made[0])
			check(t, errors.Join(os.Rename(work, work+".genuine"), os.Mkdir(work, 0o755), os.Symlink(thesis, filepath.Join(work, at))))
		}}
		p, err := Prepare(t.Context(), s.d, s.o)
		if err == nil {
			t.Errorf("step %d: prepared in %s", before, p.Record.JobDir)
		}
		all, lerr := s.d.Store.List()
		check(t, lerr)
		for _, rec := range all {
			if rec.Stage != submission.Preparing {
				t.Errorf("step %d: %+v", before, rec)
			}
			if _, err := Continue(t.Context(), s.d, rec, false); err == nil || fault.Hint(err) == "" {
				t.Errorf("step %d: continued: %v", before, err)
			}
		}
		for _, name := range own {
			if b, err := os.ReadFile(filepath.Join(thesis, name)); string(b) != "the submitter's "+name &&
				!(before%2 == 0 && filepath.Dir(name) == "bin") {
				t.Errorf("step %d: %s: %q, %v", before, name, b, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(work+".genuine", at, jobdir.ManifestName)); before > 2 && len(b) == 0 {
			t.Errorf("step %d: the genuine directory has no manifest: %v", before, err)
		}
	}
}
