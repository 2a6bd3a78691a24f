package output

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// Dir is a directory to be made, or an empty one to be filled.
type Dir struct {
	Path   string
	Inputs []string // files and directories that it is made from
}

// Check finds out whether the directory may be made or filled, and changes nothing: ErrInput if it
// lies in one of its inputs or is one, fs.ErrExist if it is not empty, ErrKind if it is something else,
// fs.ErrNotExist if the directory is missing in which it would lie.
func (d Dir) Check() error {
	_, err := d.look()
	return err
}

// look is Check, and reports whether the directory exists.
func (d Dir) look() (exists bool, err error) {
	if err := Named(d.Path); err != nil {
		return false, err
	}
	if err := Apart(d.Path, d.Inputs...); err != nil {
		return false, err
	}
	st, err := os.Stat(d.Path) // of a link, what it leads to is filled
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		if _, err := os.Lstat(d.Path); err == nil {
			return false, refused(ErrKind, hintOther, "%s is a symbolic link that leads nowhere", d.Path)
		}
		return false, inDirectory(d.Path)
	}
	if err != nil {
		return false, err
	}
	if !st.IsDir() {
		return false, refused(ErrKind, "name a new directory", "%s is %s", d.Path, kindOf(st))
	}
	f, err := os.Open(d.Path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if len(names) > 0 {
		return false, &refusal{d.Path + " is not empty; name a new directory", fs.ErrExist}
	}
	if !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

// CheckDirs finds out whether path is a directory, or may become one with all that it lies in: ErrKind if something else is
// in the way.
func CheckDirs(path string) error {
	if err := Named(path); err != nil {
		return err
	}
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		st, err := os.Stat(at)
		switch {
		case err == nil && st.IsDir():
			return nil
		case err == nil:
			return refused(ErrKind, hintOther, "%s is %s", at, kindOf(st))
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return err
		}
		if _, err := os.Lstat(at); err == nil {
			return refused(ErrKind, hintOther, "%s is a symbolic link that leads nowhere", at)
		}
	}
}

// Filling is a directory in the making. Either Commit or Discard ends it.
type Filling struct {
	want   Dir
	exists bool
	work   string
}

// Create makes an empty directory with mode 0700, beside the one that is to be made, or in the one
// that is to be filled, which is kept: somebody may be in it, or have mounted it.
func (d Dir) Create() (*Filling, error) {
	exists, err := d.look()
	if err != nil {
		return nil, err
	}
	d.Path = filepath.Clean(d.Path)
	x := &Filling{want: d, exists: exists, work: besides(d.Path)}
	if exists {
		x.work = besides(filepath.Join(d.Path, "tree"))
	}
	return x, os.Mkdir(x.work, 0o700)
}

// Path returns where the tree is to be put together.
func (x *Filling) Path() string { return x.work }

// Discard removes what was put together. It may be called after Commit.
func (x *Filling) Discard() error {
	if x.work == "" {
		return nil
	}
	parent, err := os.OpenRoot(filepath.Dir(x.work))
	if err != nil {
		return err
	}
	defer parent.Close()
	return fsx.Dir{Root: parent}.RemoveTree(filepath.Base(x.work))
}

// Commit gives the tree its name. Of a directory that is filled, mode and time become the tree's.
func (x *Filling) Commit() error {
	var err error
	if x.exists {
		err = x.moveIn()
	} else if err = fsx.RenameNew(x.work, x.want.Path); errors.Is(err, fs.ErrExist) {
		err = refused(fs.ErrExist, "name a new directory", "%s came into being meanwhile", x.want.Path)
	}
	if err == nil {
		x.work = ""
	}
	return err
}

// Put gives a tree that lies elsewhere on the same file system its name: path is new, or an empty
// directory, which is filled.
func Put(tree, path string) error {
	exists, err := Dir{Path: path}.look()
	if err != nil {
		return err
	}
	return (&Filling{want: Dir{Path: path}, exists: exists, work: tree}).Commit()
}

// moveIn moves what is in the working directory to the directory that is filled.
func (x *Filling) moveIn() error {
	st, err := os.Stat(x.work)
	if err == nil {
		err = os.Chmod(x.work, 0o700) // it may be read-only
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(x.work)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := moveEntry(filepath.Join(x.work, e.Name()), filepath.Join(x.want.Path, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(x.work); err != nil {
		return err
	}
	err = os.Chtimes(x.want.Path, time.Time{}, st.ModTime())
	if err == nil {
		err = os.Chmod(x.want.Path, modeOf(st))
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil // somebody else's directory, which keeps its own
	}
	return err
}

// moveEntry renames something, a read-only directory among it, which Linux does not let change its parent.
func moveEntry(from, to string) error {
	err := fsx.RenameNew(from, to)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	st, serr := os.Lstat(from)
	if serr != nil || !st.IsDir() {
		return err
	}
	if err := os.Chmod(from, 0o700); err != nil {
		return err
	}
	if err := fsx.RenameNew(from, to); err != nil {
		return err
	}
	return os.Chmod(to, modeOf(st))
}

// modeOf returns the permissions and the sticky bit.
func modeOf(st fs.FileInfo) fs.FileMode { return st.Mode() & (fs.ModePerm | fs.ModeSticky) }
