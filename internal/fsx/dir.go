package fsx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// directory is where names lead: a Dir, or wherever paths do.
type directory interface {
	OpenFile(name string, flag int, perm os.FileMode) (*os.File, error)
	Rename(from, to string) error
	Remove(name string) error
}

// byPath are package os's functions.
type byPath struct{}

func (byPath) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (byPath) Rename(from, to string) error { return os.Rename(from, to) }
func (byPath) Remove(name string) error     { return os.Remove(name) }

// Dir is a directory that is open: its methods reach that very directory,
// whatever its path has come to lead to.
type Dir struct{ *os.Root }

// OpenRegular opens a regular file for reading, ErrNotRegular for anything else.
func (d Dir) OpenRegular(name string) (*os.File, error) { return openRegular(d, name) }

// ReadRegular reads a regular file of at most limit bytes.
func (d Dir) ReadRegular(name string, limit int64) ([]byte, error) {
	return readRegular(d, name, limit)
}

// WriteNew writes a file that must not exist yet, as the function does.
func (d Dir) WriteNew(name string, data []byte, perm os.FileMode) error {
	return writeNew(d, name, data, perm)
}

// Replace writes data to name, atomically and durably, as the function does.
func (d Dir) Replace(name string, data []byte, perm os.FileMode) error {
	return replace(d, name, data, perm)
}

// Commit renames partial to name, which is in the same directory, durably.
func (d Dir) Commit(partial, name string) error { return commit(d, partial, name) }

// Sync makes durable which names are in the directory.
func (d Dir) Sync() error { return syncDir(d, ".") }

// RemoveTree removes a tree of one's own, directories that the application made
// read-only among it.
func (d Dir) RemoveTree(name string) error {
	err := d.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	err = fs.WalkDir(d.FS(), name, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = d.Chmod(name, 0o700)
		}
		return err
	})
	return errors.Join(err, d.RemoveAll(name))
}

// FDPath returns a path that leads to an open file, in this process and while
// the file is open.
func FDPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
