package results

import (
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/volume"
)

// recover opens what a job left that could not seal its outputs: the cipher
// directory, with the key that was wrapped and signed before the first byte.
// Nothing vouches for the tree as a whole.
func (f *fetch) recover(tmp, tree string) error {
	_, key, err := f.wrappedKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	cipher := filepath.Join(tmp, "cipher")
	c := copier{ctx: f.ctx, fs: f.FS, tolerant: f.Recover, unlock: f.unlock, progress: f.Progress.Start("fetching "+f.Name, 0, 0)}
	if err = os.Mkdir(cipher, 0o700); err == nil {
		err = c.copy(path.Join(f.remote, jobdir.CipherDirName), cipher)
	}
	c.progress.End(err == nil)
	if err != nil {
		return f.noCipherDir(err)
	}
	dir, err := volume.OpenCipherDir(cipher, key)
	if err != nil {
		return err
	}
	f.leave(c, dir.PlainPath)
	opt, collected := f.extractOptions(false)
	err = volume.ExtractCipherDir(f.ctx, cipher, key, tree, opt)
	collected()
	return err
}

// leave names, as the job did, what has not been copied.
func (f *fetch) leave(c copier, plainPath func(string) string) {
	f.Lost += c.lost
	if c.moving > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%d files changed or vanished while they were fetched", c.moving))
	}
	for _, d := range c.left {
		f.Left = append(f.Left, Damage{plainPath(d.Path), d.Err})
	}
}

// unlock has the site make readable what the job's owner has closed to themselves. Nobody does while
// the job runs.
func (f *fetch) unlock() bool {
	if f.Readable == nil || f.unlocked {
		return false
	}
	f.unlocked = true
	if err := f.Readable(f.ctx, f.Name); err != nil {
		f.Notes = append(f.Notes, fmt.Sprintf("what its owner may not read could not be made readable: %v", err))
		return false
	}
	f.Notes = append(f.Notes, "the job left files or directories that its owner may not read: they have been made readable")
	return true
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
