package results

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// Bounds of a cipher directory that is copied. What exceeds them is left out, and named.
const (
	maxEntries = 10_000_000
	maxFile    = 1 << 50 // bytes
	maxPath    = 4095    // bytes: Linux's, which SFTP servers have, too
	maxName    = 255     // bytes, of an encrypted name
)

// Why something is not copied.
var (
	errLongPath = fmt.Errorf("its encrypted path at the site is longer than the %d bytes that can be asked for", maxPath)
	// sftp-server leaves names out whose path is too long for it, and does not say so.
	errLongList = errors.New("its encrypted path at the site is so long that not all that lies in it may have been listed")
	errEntries  = fmt.Errorf("the job has left more than %d files", maxEntries)
)

// copier copies a cipher directory: names and contents are ciphertext. It takes what can be
// taken. Locally it goes by descriptors, as paths can be longer than the system takes.
type copier struct {
	ctx      context.Context
	fs       transfer.FS
	progress progress.Bar
	// want are the names to copy, as volume.Reader.CipherPaths gives them; nil
	// means all. The others are noted in added.
	want    map[string]int64
	added   []Damage
	entries int
	// left is what could not be copied, at most maxNamed, by its cipher path; lost is
	// how much of it has content.
	left []Damage
	lost int
	// unlock reports whether it has made readable what its owner may not read.
	unlock func() bool
	// tolerant passes over files for which this machine has no room. copied are the bytes so far.
	tolerant bool
	moving   int // files that changed or vanished meanwhile
	copied   int64
}

// copy copies what is in the directory at from to the empty directory to.
func (c *copier) copy(from, to string) error {
	list, err := c.readDir(from)
	if err != nil {
		return err
	}
	return c.all(list, from, to, "")
}

// readDir lists a directory at the site.
func (c *copier) readDir(dir string) ([]os.FileInfo, error) {
	list, err := c.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) && c.unlock != nil && c.unlock() {
		list, err = c.fs.ReadDir(dir)
	}
	return list, err
}

// all copies what is in a directory; rel is its name below the first.
func (c *copier) all(list []os.FileInfo, from, to, rel string) error {
	dir, err := os.OpenFile(to, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if c.want == nil && len(from)+1+maxName > maxPath {
		c.leave(rel, errLongList, true)
	}
	for _, e := range list {
		name := e.Name()
		if !filepath.IsLocal(name) || filepath.Base(name) != name {
			return fmt.Errorf("the server names a file %.80q", name)
		}
		rel := path.Join(rel, name)
		if !c.wants(rel, e) {
			continue
		}
		if c.entries++; c.entries > maxEntries {
			c.leave(rel, errEntries, true)
			return nil
		}
		err := c.entry(path.Join(from, name), fsx.FDPath(dir)+"/"+name, rel, e)
		if err != nil && c.endsAll(err) {
			return err
		}
		if err != nil {
			c.leave(rel, err, true)
		}
	}
	return nil
}

// leave notes an entry that is not copied.
func (c *copier) leave(rel string, err error, content bool) {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, transfer.ErrMoving) {
		c.moving++
	}
	if content {
		c.lost++
	}
	if len(c.left) < maxNamed {
		c.left = append(c.left, Damage{rel, plain(err)})
	}
}

// plain returns an error without the path at the site, which means nothing to people.
func plain(err error) error {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errors.New("permission denied at the site")
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it vanished while it was fetched")
	case errors.Is(err, transfer.ErrMoving):
		return transfer.ErrMoving
	case errors.Is(err, syscall.ENAMETOOLONG):
		return errLongPath
	case errors.As(err, &pe):
		return pe.Err
	}
	return err
}

// endsAll reports whether an error about one entry is one about all of them: the connection or
// this machine's disk, or a server that names things twice.
func (c *copier) endsAll(err error) bool {
	if errors.Is(err, errTooLarge) {
		return !c.tolerant || c.want != nil
	}
	for _, e := range []error{transfer.ErrConnect, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, fs.ErrExist} {
		if errors.Is(err, e) {
			return true
		}
	}
	return c.ctx.Err() != nil
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

func (c *copier) entry(from, to, rel string, e os.FileInfo) error {
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case !e.IsDir() && !e.Mode().IsRegular() && e.Mode()&os.ModeSymlink == 0:
		c.leave(rel, volume.ErrSpecial, false)
		return nil
	case len(from) > maxPath:
		return errLongPath
	case e.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		list, err := c.readDir(from)
		if err != nil {
			return err
		}
		return c.all(list, from, to, rel)
	case e.Mode()&os.ModeSymlink != 0:
		target, err := c.fs.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return c.file(from, to, rel, e)
}

func (c *copier) file(from, to, rel string, e os.FileInfo) error {
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
	if errors.Is(err, fs.ErrPermission) && c.unlock != nil && c.unlock() {
		got, err = transfer.Download(c.ctx, c.fs, from, to, limit, nil)
	}
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
