package results

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// Bounds of a cipher directory that is copied.
const (
	maxDepth   = 4096
	maxEntries = 10_000_000
	maxFile    = 1 << 50 // bytes
)

// recover opens what a job left that could not seal its outputs: the cipher
// directory, with the key that was wrapped and signed before the first byte.
// Nothing vouches for the tree as a whole.
func (f *fetch) recover(tmp, tree string) error {
	if f.Receipt != nil && f.Receipt.Output.Sealed && manifest.DigestOf(f.files.Keys) != f.v.Origin.Keys {
		return fault.New(fault.Integrity, fmt.Errorf("wrapped keys of the outputs: %w", jobdir.ErrNotOurs), "")
	}
	_, key, err := f.wrappedKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	cipher := filepath.Join(tmp, "cipher")
	c := copier{ctx: f.ctx, fs: f.FS, tolerant: f.Recover, progress: f.Progress.Start("fetching "+f.Name, 0, 0)}
	err = os.Mkdir(cipher, 0o700)
	if err == nil {
		err = c.list(path.Join(f.remote, jobdir.CipherDirName), cipher, "", 0)
	}
	if err != nil {
		c.progress.End(false)
		return f.noCipherDir(err)
	}
	c.progress.End(true)
	if c.moving > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%d files changed or vanished while they were fetched; they are left out", c.moving))
	}
	if c.tooLarge > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%d files are larger than what is free here; they are left out", c.tooLarge))
	}
	opt, collected := f.extractOptions(false)
	err = volume.ExtractCipherDir(f.ctx, cipher, key, tree, opt)
	collected()
	return err
}

// noCipherDir explains a working volume that is away: it is removed when the
// results are sealed and signed.
func (f *fetch) noCipherDir(err error) error {
	if !isGone(err) {
		return fmt.Errorf("fetch the cipher directory: %w", err)
	}
	return fault.New(fault.Integrity, fmt.Errorf("the job's working volume is gone: %w", err),
		jobdir.SealedName+" beside it, if it is there, opens with sealbatch open; but without its receipt nothing proves that the job made it")
}

// copier copies a cipher directory: names and contents are ciphertext.
type copier struct {
	ctx      context.Context
	fs       transfer.FS
	progress progress.Bar
	// want are the names to copy, as volume.Reader.CipherPaths gives them; nil
	// means all. The others are noted in added.
	want    map[string]int64
	added   []Damage
	entries int
	// tolerant passes over files that change meanwhile, and counts them.
	tolerant bool
	moving   int
	// copied are the bytes so far; tooLarge counts the files that were passed
	// over since this machine has no room for them.
	copied   int64
	tooLarge int
}

// list copies what is in a directory; rel is its name below the first.
func (c *copier) list(from, to, rel string, depth int) error {
	if depth > maxDepth {
		return errors.New("directories are nested too deeply")
	}
	list, err := c.fs.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		if c.entries++; c.entries > maxEntries {
			return errors.New("more files than any job writes")
		}
		name := e.Name()
		if !filepath.IsLocal(name) || filepath.Base(name) != name {
			return fmt.Errorf("the server names a file %.80q", name)
		}
		if !c.wants(path.Join(rel, name), e) {
			continue
		}
		err := c.entry(path.Join(from, name), filepath.Join(to, name), path.Join(rel, name), e, depth)
		if c.passes(err) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wants reports whether the index knows a name as this kind of thing. A name that
// it does not know is noted; of one that is something else now, verification tells.
func (c *copier) wants(rel string, e os.FileInfo) bool {
	if c.want == nil {
		return true
	}
	size, known := c.want[rel]
	switch {
	case !known && !volume.IsInternalName(e.Name()):
		if len(c.added) < maxNamed {
			c.added = append(c.added, Damage{rel, volume.ErrAdded})
		}
		return false
	case !known:
		return false
	case e.IsDir():
		return size == -1
	case e.Mode()&os.ModeSymlink != 0:
		return size == -2
	}
	return e.Mode().IsRegular() && size >= 0
}

// passes reports whether an error about one entry is no reason to give up.
func (c *copier) passes(err error) bool {
	if c.tolerant && c.want == nil && errors.Is(err, errTooLarge) {
		c.tooLarge++
		return true
	}
	if err == nil || c.ctx.Err() != nil || !(errors.Is(err, os.ErrNotExist) || errors.Is(err, transfer.ErrMoving)) {
		return false
	}
	c.moving++
	return c.want != nil || c.tolerant
}

func (c *copier) entry(from, to, rel string, e os.FileInfo, depth int) error {
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case e.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return c.list(from, to, rel, depth+1)
	case e.Mode()&os.ModeSymlink != 0:
		target, err := c.fs.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !e.Mode().IsRegular():
		return nil
	}
	limit, err := c.room(to)
	switch {
	case err != nil:
		return err
	case c.want != nil:
		if limit = c.want[rel]; e.Size() > limit {
			return placeholder(to, e.Size())
		}
	case e.Size() > limit:
		return fmt.Errorf("%w: a file of %s is in the cipher directory, and here is room for one of %s: %w", errTooLarge,
			text.Size(e.Size()), text.Size(limit), syscall.ENOSPC)
	}
	got, err := transfer.Download(c.ctx, c.fs, from, to, limit, nil)
	if err != nil {
		return err // and no chmod: what has the name may be a link that the server named twice
	}
	c.copied += got
	c.progress.Update(c.copied, 0)
	return os.Chmod(to, e.Mode().Perm()|0o400)
}

// errTooLarge: nobody vouches for the sizes of what a killed job left. A hole of a
// petabyte costs nothing on the storage.
var errTooLarge = errors.New("it does not fit")

// room returns how large a file may be: everything is here twice before it is done,
// encrypted and opened.
func (c *copier) room(to string) (int64, error) {
	free, err := transfer.Local{}.Free(filepath.Dir(to))
	if err != nil {
		return 0, err
	}
	return min(maxFile, max(0, free-c.copied)/2), nil
}

// placeholder stands for a file that is longer than it was indexed: it is not
// fetched, and verification finds it to be of another length.
func placeholder(to string, size int64) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(min(size, 1<<40)), f.Close())
}
