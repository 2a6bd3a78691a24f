package results

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/submission"
	"github.com/sealbatch/sealbatch/transfer"
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
func (d Deps) recover(ctx context.Context, remote string, v submission.Vouched, keys []byte, target string) error {
	id, key, err := volume.ReadKey(bytes.NewReader(keys), d.Identities...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if id.String() != v.Origin.VolumeID {
		return ui.Fail(ui.CodeIntegrity, errors.New("the wrapped key is that of another volume"), "")
	}
	tmp, err := os.MkdirTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	c := copier{ctx: ctx, fs: d.FS, progress: d.progress("fetching "+v.Node, 0)}
	if err := c.dir(path.Join(remote, submission.CipherDirName), filepath.Join(tmp, "cipher"), 0); err != nil {
		c.progress.Abandon()
		return fmt.Errorf("fetch the cipher directory: %w", err)
	}
	c.progress.Finish()
	return volume.ExtractCipherDir(ctx, filepath.Join(tmp, "cipher"), key, target, volume.ExtractOptions{})
}

// copier copies a cipher directory: names and contents are ciphertext.
type copier struct {
	ctx      context.Context
	fs       transfer.FS
	progress *ui.Progress
	entries  int
}

func (c *copier) dir(from, to string, depth int) error {
	if depth > maxDepth {
		return errors.New("directories are nested too deeply")
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	list, err := c.fs.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		if c.entries++; c.entries > maxEntries {
			return errors.New("more files than any job writes")
		}
		if !filepath.IsLocal(e.Name()) || filepath.Base(e.Name()) != e.Name() {
			return fmt.Errorf("the server names a file %.80q", e.Name())
		}
		if err := c.entry(path.Join(from, e.Name()), filepath.Join(to, e.Name()), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(from, to string, e os.FileInfo, depth int) error {
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case e.IsDir():
		return c.dir(from, to, depth+1)
	case e.Mode()&os.ModeSymlink != 0:
		target, err := c.fs.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !e.Mode().IsRegular():
		return nil
	}
	got, err := transfer.Download(c.ctx, c.fs, from, to, maxFile, nil)
	if err != nil {
		return err // and no chmod: what has the name may be a link that the server named twice
	}
	c.progress.Add(got.Size)
	return os.Chmod(to, e.Mode().Perm()|0o400)
}
