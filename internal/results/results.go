// Package results brings a job's results home: it fetches what each node left,
// holds it against what was remembered at submission, and opens it, one
// directory a node.
package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sort"
	"syscall"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/slurm"
	"github.com/sealbatch/sealbatch/volume"
)

// Deps are the parties that take part.
type Deps struct {
	FS         transfer.FS
	Identities []age.Identity // one of them opens the results
	// Rewrapped returns what Rewrap kept of a volume, fs.ErrNotExist if nothing; nil
	// if there is none.
	Rewrapped func(volumeID string) ([]byte, error)
	Open      volume.OpenOptions
	Log       *slog.Logger
	Progress  progress.Starter
	// Readable, if set, makes readable what a node has left and its owner may not read.
	Readable func(ctx context.Context, node string) error
	// Recover opens whatever can be: of damaged results what is not; where a
	// receipt or sealed results are missing or damaged, the working volume; and
	// that of a job that still runs, as it is now.
	Recover bool
}

// Node is what came of one node.
type Node struct {
	Name string
	Dir  string // local directory with the opened results; "" if there are none
	// Before says that Dir was opened by an earlier run and left as it is.
	Before bool
	// Receipt is the node's account; nil when the job was killed before it
	// could write one.
	Receipt *manifest.Receipt
	Tier    manifest.Tier
	// Sealed says that the tree is as the job sealed it, Indexed that it is as
	// the job indexed it, but for Unread. If neither, each block is genuine, but
	// files may be missing, older, or exchanged.
	Sealed, Indexed bool
	// Unread are files that the index knows by id and size only, at most 1000:
	// whoever can write the storage may have put older versions of them back.
	Unread []string
	// Left is what the job could not keep, or could not be fetched, or not as a whole, at most
	// maxNamed; Lost is how much of it had content, and is not in Dir.
	Left []Damage
	Lost int
	// Missing is what the file system of Dir could not hold, Altered what came out otherwise.
	Missing, Altered []Damage
	// Links lead out of Dir: Err says where to.
	Links []Damage
	// Damaged files are not in Dir. (Of a recovered volume, what comes before the
	// damage is.)
	Damaged []Damage
	// Changed is what somebody changed on the storage after the job, without
	// effect on what was opened.
	Changed []Damage
	Notes   []string // what else there is to know
	Err     error    // why this node's results could not be opened
}

// Damage is a file, or another name in the tree, and what is wrong with it.
type Damage struct {
	Path string
	Err  error
}

// ErrNothing says that no node has left anything yet.
var ErrNothing = errors.New("the job has left nothing yet")

// maxSmall bounds a node's signed files, in bytes.
const maxSmall = 1 << 20

// Fetch opens the results of a job below dir, one new directory a node. A node
// whose results cannot be opened has Err set and does not keep the others from
// being opened. What exists under a final name is complete; running it again
// opens the nodes that are still missing.
func Fetch(ctx context.Context, d Deps, rec submission.Record, dir string) ([]Node, error) {
	names, err := nodeNames(d.FS, rec)
	if err != nil {
		return nil, err
	}
	out, err := openOutDir(dir)
	if err != nil {
		return nil, err
	}
	defer out.close()
	var all []Node
	for _, name := range names {
		f := &fetch{Deps: d, ctx: ctx, rec: rec, out: out, remote: jobdir.NodePath(rec.JobDir, name)}
		f.Name = name
		f.Err = f.run()
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		if errors.Is(f.Err, syscall.ENOSPC) || errors.Is(f.Err, syscall.EDQUOT) {
			f.Err = fault.New(fault.Other, f.Err, "make room here, or name a directory elsewhere with -o, and run it again")
		}
		all = append(all, f.Node)
	}
	return all, nil
}

// nodeNames returns the nodes that left something, sorted.
func nodeNames(fsys transfer.FS, rec submission.Record) (names []string, err error) {
	entries, err := fsys.ReadDir(jobdir.NodePath(rec.JobDir, ""))
	if isGone(err) {
		err = fmt.Errorf("the job's directory is gone, with all results that were in it: %w", err)
		return nil, fault.New(fault.Empty, err, "somebody removed it, as results --remove does, or the site has purged its storage")
	}
	if err != nil {
		return nil, fmt.Errorf("job directory: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && jobdir.IsNodeName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fault.New(fault.Job, ErrNothing, whereNext(fsys, rec))
	}
	sort.Strings(names)
	return names, nil
}

// whereNext says what tells more about a job that left nothing. A job writes its
// log as soon as it knows that it is in its own directory.
func whereNext(fsys transfer.FS, rec submission.Record) string {
	if _, err := fsys.Lstat(rec.LogFile); errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("it has no log: it still waits; or when it began, another directory lay in the place of %s, "+
			"and it ended with exit code %d", rec.JobDir, slurm.ExitNotOurs)
	}
	return "the job's log says how far it came: " + transfer.At(rec.LogFile)
}

// fetch is the fetching of one node's results.
type fetch struct {
	Deps
	Node
	ctx    context.Context
	rec    submission.Record
	out    *outDir
	remote string // the node's directory
	files  jobdir.Files
	v      jobdir.Vouched

	unlocked bool              // Readable has been called
	links    map[string]string // symbolic links in the tree, by path
}

// run finds out what there is, and opens it.
func (f *fetch) run() (err error) {
	if err := f.read(); err != nil {
		return err
	}
	if f.files.Statement == "" || (f.files.Origin == "" && f.files.Receipt == "") {
		err := fmt.Errorf("%w on this node: it has not begun to write results, or was killed before it could", ErrNothing)
		return fault.New(fault.Job, err, whereNext(f.FS, f.rec))
	}
	if err := f.check(); err != nil {
		return err
	}
	f.Receipt, f.Tier = f.v.Receipt, f.v.Statement.Tier
	f.readLeft()
	if f.Receipt != nil && f.Receipt.Output.VolumeID == "" {
		return nil // it failed before there were outputs
	}
	source := f.source()
	if f.Before, err = f.out.has(f.Name, source, !f.Recover); err != nil {
		return err
	}
	if !f.Before {
		if err := f.open(source); err != nil {
			f.Sealed, f.Indexed = false, false
			return err
		}
	}
	f.Dir = f.out.path(f.Name)
	f.beside()
	return nil
}

// read fetches the node's signed files.
func (f *fetch) read() (err error) {
	f.files, err = jobdir.ReadFiles(func(name string) ([]byte, error) {
		return transfer.ReadFile(f.FS, path.Join(f.remote, name), maxSmall)
	})
	return err
}

// check holds the signed files against the record. Recovering does without a
// receipt that does not hold.
func (f *fetch) check() (err error) {
	f.v, err = jobdir.Check(f.rec.Expected(), f.Name, f.files)
	if err == nil {
		return nil
	}
	hint := "these files were not made by the job that you submitted: do not use them"
	if errors.Is(err, jobdir.ErrNoKeys) {
		hint = "somebody removed it from " + transfer.At(f.remote) + " after the job; a copy made earlier will do"
	}
	if f.files.Receipt == "" {
		return fault.New(fault.Integrity, err, hint)
	}
	without := f.files
	without.Receipt = ""
	v, werr := jobdir.Check(f.rec.Expected(), f.Name, without)
	if werr != nil {
		return fault.New(fault.Integrity, err, hint)
	}
	if !f.Recover {
		return fault.New(fault.Integrity, err, "all but the receipt is the job's own: results --recover does without it")
	}
	f.v = v
	f.Notes = append(f.Notes, fmt.Sprintf("not used: %v", err))
	return nil
}

// source names what will be opened, so that a later run can tell.
func (f *fetch) source() string {
	switch r := f.Receipt; {
	case r != nil && r.Output.Sealed:
		return "sealed " + r.Output.Digest.String()
	case r != nil && r.Output.Index != nil:
		return "index " + r.Output.Index.Digest.String()
	}
	return sourceRecovered
}

func (f *fetch) open(source string) error {
	tmp, err := f.out.temp(f.Name)
	if err != nil {
		return err
	}
	tree := filepath.Join(tmp, "tree")
	switch {
	case source == sourceRecovered:
		err = f.recover(tmp, tree)
	case f.Receipt.Output.Sealed:
		f.Sealed = true
		err = f.openSealed(tmp, tree)
	default:
		f.Indexed = true
		err = f.openIndexed(tmp, tree)
	}
	if isDamage(err) && source != sourceRecovered && f.Recover {
		f.Notes = append(f.Notes, fmt.Sprintf("not used: %v", err))
		f.Sealed, f.Indexed, f.Damaged, f.Changed, f.Unread = false, false, nil, nil, nil
		f.Missing, f.Altered, f.links = nil, nil, nil
		source = sourceRecovered
		if tmp, err = f.out.temp(f.Name); err == nil {
			tree = filepath.Join(tmp, "tree")
			err = f.recover(tmp, tree)
		}
	}
	if err != nil {
		return err
	}
	f.findLinks(tree)
	whole := len(f.Damaged) == 0 && len(f.Missing) == 0 && (f.Receipt != nil && f.Receipt.Output.Left != nil || f.Lost == 0)
	return f.out.put(tree, f.Name, source, !whole)
}

// unlessDamaged fails if there are damaged files, and they are not to be left out.
func (f *fetch) unlessDamaged() error {
	if len(f.Damaged) == 0 || f.Recover {
		return nil
	}
	return fault.New(fault.Integrity, fmt.Errorf("%d files are damaged, or were altered after the job: %w", len(f.Damaged), f.Damaged[0].Err),
		"fetch them again; if that does not help, results --recover opens the others")
}

// extractOptions collect what is damaged instead of giving up.
func (f *fetch) extractOptions(leaveOut bool) (volume.ExtractOptions, func()) {
	damaged, missing, altered := newCollector(), newCollector(), newCollector()
	f.links = map[string]string{}
	opt := volume.ExtractOptions{Damaged: damaged.add, LeaveOut: leaveOut, Missing: missing.add, Altered: altered.add,
		Link: func(path, target string) {
			if len(f.links) < maxLinks {
				f.links[path] = target
			}
		}}
	return opt, func() { f.Damaged, f.Missing, f.Altered = damaged.sorted(), missing.sorted(), altered.sorted() }
}

// isDamage reports whether something is wrong with results, not on the way to them.
func isDamage(err error) bool {
	return errors.Is(err, volume.ErrIntegrity) || fault.ClassOf(err) == fault.Integrity
}

// tooLarge adds what helps to the error of an index that is larger than what the reader bears.
func tooLarge(err error) error {
	if !errors.Is(err, volume.ErrLimit) {
		return err
	}
	return fault.New(fault.Usage, err, "results --max-index lets the list of names take more memory")
}

// isGone reports whether something on the storage is away.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) }
