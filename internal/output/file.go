package output

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// File is a file to be made.
type File struct {
	Path    string
	Inputs  []string // files and directories that it is made from
	Replace bool     // a regular file that has the name gives way
}

// Check finds out whether the file may be made, and changes nothing: ErrInput if it is one of its
// inputs or lies in one, fs.ErrExist if there is a file, ErrKind if there is something else, fs.ErrNotExist
// if the directory is missing in which it would lie.
func (f File) Check() error {
	_, err := f.look()
	return err
}

// look is Check, and returns the file that has the name; nil if none has.
func (f File) look() (fs.FileInfo, error) {
	if err := Apart(f.Path, f.Inputs...); err != nil {
		return nil, err
	}
	st, err := os.Lstat(f.Path)
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
	switch {
	case gone && (f.Path == "" || strings.HasSuffix(f.Path, "/")):
		return nil, refused(ErrKind, "name a file", "%q is no file's name", f.Path)
	case gone:
		return nil, inDirectory(f.Path)
	case err != nil:
		return nil, err
	case st.Mode()&fs.ModeSymlink != 0:
		return nil, refused(ErrKind, "links are not followed: name what it leads to, or "+hintOther, "%s is a symbolic link", f.Path)
	case st.IsDir():
		return nil, refused(ErrKind, "name a file in it", "%s is a directory", f.Path)
	case !st.Mode().IsRegular():
		return nil, refused(ErrKind, hintOther, "%s is %s", f.Path, kindOf(st))
	case !f.Replace:
		return nil, refused(fs.ErrExist, hintOther+", or replace it with --force", "%s exists", f.Path)
	}
	return st, nil
}

// Made is a file in the making. Either Commit or Discard ends it.
type Made struct {
	*os.File
	want File
	had  *os.File // what Commit replaces, kept open so that nothing else gets its inode; nil for nothing
	name string   // "" as long as it has none
}

// Create begins to make the file, with mode 0600 and for reading, too.
func (f File) Create() (*Made, error) { return f.create(nameless) }

func (f File) create(nameless func(dir string) (*os.File, error)) (*Made, error) {
	had, err := f.look()
	if err != nil {
		return nil, err
	}
	m := &Made{want: f}
	if had != nil {
		if m.had, err = hold(f.Path, had); err != nil {
			return nil, err
		}
	}
	if m.File, err = nameless(filepath.Dir(f.Path)); err == nil {
		return m, nil
	}
	name := besides(f.Path)
	if m.File, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		_ = m.had.Close() // of nil, too
		return nil, err
	}
	m.name = name
	return m, nil
}

// hold opens what was found under a name, without reading it: a file that is removed would else give its inode to
// the next one.
func hold(path string, found fs.FileInfo) (*os.File, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !os.SameFile(st, found) {
		_ = f.Close()
		return nil, cameMeanwhile(path)
	}
	return f, nil
}

// nameless opens a new file without a name, to which fsx.FDPath leads.
func nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, err
	}
	mine, err := f.Stat()
	st, perr := os.Stat(fsx.FDPath(f))
	if err = errors.Join(err, perr); err == nil && !os.SameFile(mine, st) {
		err = fs.ErrInvalid
	}
	if err == nil {
		err = f.Chmod(0o600) // whatever the umask is
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// besides returns a name beside path that nobody can guess.
func besides(path string) string {
	base := filepath.Base(path)
	if n := 200; len(base) > n { // of 255 bytes
		base = strings.ToValidUTF8(base[:n], "")
	}
	return filepath.Join(filepath.Dir(path), base+"."+rand.Text()+".partial")
}

// Commit makes the file durable, gives it its name and closes it. What has got the name since Create
// is not replaced.
func (m *Made) Commit() error {
	err := m.Sync()
	if err == nil {
		err = m.settle()
	}
	if err != nil {
		m.Discard()
		return err
	}
	return errors.Join(m.Close(), fsx.SyncDir(filepath.Dir(m.want.Path)))
}

func (m *Made) settle() error {
	defer m.had.Close() // of nil, too
	now, err := os.Lstat(m.want.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m.taken(m.nameNew(m.want.Path))
	case err != nil:
		return err
	case !m.replaces(now):
		return m.taken(fs.ErrExist)
	}
	if m.name == "" {
		name := besides(m.want.Path)
		if err := m.nameNew(name); err != nil {
			return err
		}
		m.name = name
	}
	if err := os.Rename(m.name, m.want.Path); err != nil {
		return err
	}
	m.name = ""
	return nil
}

// replaces reports whether it is what Create found.
func (m *Made) replaces(now fs.FileInfo) bool {
	if m.had == nil {
		return false
	}
	had, err := m.had.Stat()
	return err == nil && os.SameFile(had, now)
}

// taken says that something else got the name meanwhile, if that is the error.
func (m *Made) taken(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return cameMeanwhile(m.want.Path)
	}
	return err
}

func cameMeanwhile(path string) error {
	return refused(fs.ErrExist, "look at it, and run the same command again", "%s came into being meanwhile", path)
}

// nameNew gives the file a name that nothing has.
func (m *Made) nameNew(path string) error {
	if m.name == "" {
		err := unix.Linkat(unix.AT_FDCWD, fsx.FDPath(m.File), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		if err != nil {
			return &os.LinkError{Op: "link", Old: m.Name(), New: path, Err: err}
		}
		return nil
	}
	err := fsx.RenameNew(m.name, path)
	if err == nil {
		m.name = ""
	}
	return err
}

// Discard closes the file, and removes it if it has got no name. It may be called after Commit.
func (m *Made) Discard() {
	_ = m.Close()
	_ = m.had.Close() // of nil, too
	if m.name != "" {
		_ = os.Remove(m.name)
		m.name = ""
	}
}

// Overwrite writes data to a file that exists, or is new; where path is a symbolic link, to what it
// leads to. Whatever happens, the file is as it was or holds all of data.
func Overwrite(path string, data []byte, perm fs.FileMode) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	m, err := File{Path: path, Replace: true}.Create()
	if err != nil {
		return err
	}
	defer m.Discard()
	if _, err := m.Write(data); err != nil {
		return err
	}
	if err := m.Chmod(perm); err != nil {
		return err
	}
	return m.Commit()
}
