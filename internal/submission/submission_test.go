package submission

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func record(run, job string) Record {
	return Record{Run: run, JobID: job, JobDir: "/scratch/p/sealbatch-" + run[:12], Address: "login",
		Manifest: manifest.DigestOf([]byte(run)), Tier: manifest.TierB2, Nodes: 2,
		Submitted: time.Unix(1700000000, 0).UTC()}
}

func TestFind(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := strings.Repeat("a", 32), strings.Repeat("b", 32), strings.Repeat("c", 32)
	for _, r := range []Record{record(a, "41"), record(b, "42"), record(c, "42")} {
		if err := s.Save(r); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]string{"41": a, a: a, a[:8]: a, b[:12]: b, c[:4]: c, "CCCC": c,
		strings.ToUpper(a): a, "/scratch/p/sealbatch-" + c[:12] + "/": c} {
		r, err := s.Find(ref)
		if err != nil || r.Run != want {
			t.Errorf("Find(%q) = %q, %v; want %q", ref, r.Run, err, want)
		}
	}
	for ref, want := range map[string]error{"42": ErrAmbiguous, "43": ErrNotFound, "": ErrNotFound, "aaa": ErrNotFound, "4": ErrNotFound} {
		if _, err := s.Find(ref); !errors.Is(err, want) {
			t.Errorf("Find(%q): %v, want %v", ref, err, want)
		}
	}
}

func TestSaveReplaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := Open(dir)
	r := record(strings.Repeat("d", 32), "")
	if err := s.Save(r); err != nil {
		t.Fatal(err)
	}
	r.JobID = "7"
	if err := s.Save(r); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 1 || all[0].JobID != "7" || all[0].Manifest != r.Manifest {
		t.Fatalf("List() = %+v, %v", all, err)
	}
	st, err := os.Stat(filepath.Join(dir, "jobs"))
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("store's mode: %v, %v", st.Mode(), err)
	}
}

func TestDamagedRecordIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := Open(dir)
	if err := s.Save(record(strings.Repeat("e", 32), "1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(record(strings.Repeat("f", 32), "2")); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "jobs", strings.Repeat("e", 32)+".json")
	for _, damage := range []string{"{}", `{"format":"sealbatch-submission/1","nosuch":1}`, "not json",
		`{"format":"sealbatch-submission/1"}`} {
		if err := os.WriteFile(p, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Find("1")
		if !errors.Is(err, ErrDamaged) || fault.ClassOf(err) != fault.Integrity || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", damage, err)
		}
		if r, err := s.Find("2"); err != nil || r.JobID != "2" {
			t.Errorf("%s: another job: %v", damage, err)
		}
	}
}

// TestListOfAnyDirectory: a directory's name is no pattern, and one that cannot be read is not an empty one.
func TestListOfAnyDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "h[1]*")
	s, _ := Open(dir)
	if all, err := s.List(); err != nil || len(all) > 0 {
		t.Errorf("of a directory that is not there: %v, %v", all, err)
	}
	run := strings.Repeat("a", 32)
	if err := s.Save(record(run, "41")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Find("41"); err != nil || r.Run != run {
		t.Errorf("in a directory called %q: %+v, %v", dir, r, err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "jobs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = Open(other)
	if _, err := s.List(); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("of a file in its place: %v", err)
	}
	if _, err := s.Find("41"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a job, with a file in the directory's place: %v", err)
	}
}
