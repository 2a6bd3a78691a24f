// Package submission keeps, on the submitter's side, what was submitted: one
// small file for each job, against which its results are checked later.
package submission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// maxRecord bounds a record's file, in bytes.
const maxRecord = 1 << 20

// Format is the value of a record's format field.
const Format = "sealbatch-submission/1"

// Record is what a submitter remembers of a job. It holds no secret.
type Record struct {
	Format    string           `json:"format"`
	Run       string           `json:"run"`      // the manifest's
	Manifest  manifest.Digest  `json:"manifest"` // digest of the signed bytes
	Name      string           `json:"name"`     // Slurm's job name
	JobID     string           `json:"job_id"`   // Slurm's; empty until submitted
	JobDir    string           `json:"job_dir"`  // absolute, on the site
	RealDir   string           `json:"real_dir"` // the same without symbolic links, as it was when the job was prepared
	LogFile   string           `json:"log_file"` // absolute, on the site
	Address   string           `json:"address"`  // login node; empty when used on it
	Service   manifest.Service `json:"service"`
	Tier      manifest.Tier    `json:"tier"`
	Attest    string           `json:"attest"`              // type of evidence
	Nodes     int              `json:"nodes"`               // at most
	MinNodes  int              `json:"min_nodes,omitempty"` // at least; 0: as many as Nodes
	Volumes   []string         `json:"volumes,omitempty"`   // ids of those that the manifest pins
	Deposited []string         `json:"deposited,omitempty"` // ids of those whose keys were deposited for this job alone
	Identity  string           `json:"identity"`            // file that opens the results; may be empty
	Submitted time.Time        `json:"submitted"`
	Stage     Stage            `json:"stage,omitempty"`
	Script    manifest.Digest  `json:"script,omitzero"` // of the batch script on the site
	// Found says that it was submitted elsewhere: this was made of its signed manifest, and is without a name.
	Found bool `json:"found,omitempty"`
}

// Expected returns what the job's results are held against.
func (r Record) Expected() jobdir.Expected {
	return jobdir.Expected{
		Run: r.Run, Manifest: r.Manifest, JobID: r.JobID, Tier: r.Tier,
		Service: r.Service.ID, StatementKey: r.Service.StatementKey,
	}
}

// Stage says how far a submission came. Each is recorded before what it names
// begins, so that a process that is killed leaves the truth behind.
type Stage string

// The stages.
const (
	Preparing  Stage = "preparing"  // its directory is being laid out
	Ready      Stage = "ready"      // laid out; perhaps submitted by hand
	Submitting Stage = "submitting" // sbatch may have got it or not
	Submitted  Stage = ""           // JobID says as what
)

// Errors of Find and List.
var (
	ErrNotFound  = errors.New("no such job among those submitted from here")
	ErrAmbiguous = errors.New("several jobs match")
	ErrDamaged   = errors.New("the record of a job is damaged")
)

// Store is a directory of records, mode 0700. The zero value is not usable.
type Store struct{ dir string }

// Open returns the store at dir; an empty dir means where sealbatch remembers
// things (userdirs.StateDir). The directory is made when first written to.
func Open(dir string) (Store, error) {
	if dir == "" {
		s, err := userdirs.StateDir()
		if err != nil {
			return Store{}, err
		}
		dir = s.Dir
	}
	return Store{dir: filepath.Join(dir, "jobs")}, nil
}

// Save writes r, replacing an earlier record of the same run atomically.
func (s Store) Save(r Record) error {
	r.Format = Format
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("remember job: %w", err)
	}
	if err := fsx.Replace(filepath.Join(s.dir, r.Run+".json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("remember job: %w", err)
	}
	return nil
}

// Remove drops the record of a run that left nothing to come back to.
func (s Store) Remove(run string) error {
	err := os.Remove(filepath.Join(s.dir, run+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.keysDir(run)))
}

// ErrBusy says that another process is at work on a run.
var ErrBusy = errors.New("another sealbatch is at work on this job")

// Lock keeps other processes from working on a run until unlock is called or
// this process ends.
func (s Store) Lock(run string) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("remember job: %w", err)
	}
	name := filepath.Join(s.dir, run+".lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("remember job: %w", err)
	}
	err = fsx.TryLock(f)
	if opened, serr := f.Stat(); err == nil && serr == nil {
		// The one who held it may have removed it since it was opened.
		if now, lerr := os.Lstat(name); lerr != nil || !os.SameFile(opened, now) {
			err = ErrBusy
		}
	}
	if err != nil {
		f.Close()
		return nil, ErrBusy
	}
	return func() {
		os.Remove(name)
		_ = fsx.Unlock(f)
	}, nil
}

// List returns every record, newest first. With an error that wraps ErrDamaged, these are those that can be read;
// with any other there is none. A directory that is not there has none.
func (s Store) List() ([]Record, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the records of jobs: %w", err)
	}
	var all []Record
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		r, rerr := read(filepath.Join(s.dir, e.Name()))
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		all = append(all, r)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Submitted.After(all[j].Submitted) })
	return all, err
}

func read(path string) (Record, error) {
	b, err := trusted.ReadFile(path, maxRecord)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := manifest.DecodeJSON(b, &r); err != nil {
		return Record{}, damaged(fmt.Errorf("%w: %s: %w", ErrDamaged, path, err))
	}
	if r.Format != Format {
		return Record{}, damaged(fmt.Errorf("%w: %s: its format is %.40q, not %s", ErrDamaged, path, r.Format, Format))
	}
	if r.Run+".json" != filepath.Base(path) || len(r.Run) != runLength {
		return Record{}, damaged(fmt.Errorf("%w: %s: it is that of run %.40q", ErrDamaged, path, r.Run))
	}
	return r, nil
}

// runLength is how many digits a run's id has.
const runLength = 32

func damaged(err error) error {
	return fault.New(fault.Integrity, err,
		"put the file back from a backup, or away: the job's directory at the site has its results all the same")
}

// minPrefix is how many digits name a run, if no other begins with them.
const minPrefix = 4

func matching(all []Record, fits func(Record) bool) (found []Record) {
	for _, r := range all {
		if fits(r) {
			found = append(found, r)
		}
	}
	return found
}

// Find returns the record that ref names: a Slurm job id, a run id or the
// first 4 or more of its digits, or the job's directory. Slurm's ids are not taken
// by their first digits: those are another job's id. They repeat
// between clusters and over the years: several matches are an error.
func (s Store) Find(ref string) (Record, error) {
	all, err := s.List()
	if err != nil && !errors.Is(err, ErrDamaged) {
		return Record{}, err
	}
	found := matching(all, func(r Record) bool {
		return ref != "" && (r.JobID == ref || r.Run == strings.ToLower(ref) || r.JobDir == strings.TrimSuffix(ref, "/"))
	})
	if len(found) == 0 && len(ref) >= minPrefix {
		found = matching(all, func(r Record) bool { return strings.HasPrefix(r.Run, strings.ToLower(ref)) })
	}
	switch len(found) {
	case 0:
		if err != nil { // it may be among those
			return Record{}, fmt.Errorf("%w: %.80q: %w", ErrNotFound, ref, err)
		}
		return Record{}, fmt.Errorf("%w: %.80q", ErrNotFound, ref)
	case 1:
		return found[0], nil
	}
	var runs []string
	for _, r := range found {
		runs = append(runs, r.Run[:12]+" on "+r.Address)
	}
	return Record{}, fmt.Errorf("%w: %s: name one by its run: %s", ErrAmbiguous, ref, strings.Join(runs, ", "))
}
