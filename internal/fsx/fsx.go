// Package fsx adds to package os what files need that others rely on: bounded
// reading, locks, and writing that is whole or not there.
//
// A file is written in these steps, of which a crash may come between any two:
//
//	create PATH.partial (must not exist)
//	write, fsync PATH.partial          durable, under a name that nobody reads
//	rename PATH.partial to PATH        atomic: a reader has the old file or the new
//	fsync the directory                the name is durable
//
// WriteNew is the first two under the final name, Commit the last two, Replace
// all four.
//
// Dir has the same for names in a directory that is open.
package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	ErrTooLarge   = errors.New("too large")
	ErrNotRegular = errors.New("not a regular file")
	ErrLocked     = errors.New("locked by another process")
)

// partialSuffix ends the name of a file that Replace has not completed.
const partialSuffix = ".partial"

// limitError is ErrTooLarge with the limit in bytes.
type limitError int64

func (e limitError) Error() string        { return fmt.Sprintf("larger than %d bytes", int64(e)) }
func (e limitError) Is(target error) bool { return target == ErrTooLarge }

// ReadAll reads r to its end. More than limit bytes are ErrTooLarge; no more
// than one byte beyond limit is read. What was read when it fails is wiped, since
// it may be secret.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = limitError(limit)
	}
	if err != nil {
		clear(b)
		return nil, err
	}
	return b, nil
}

// ReadFile reads a file of at most limit bytes, which may be a pipe.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return readClose(f, limit)
}

// ReadRegular is ReadFile for regular files only, ErrNotRegular otherwise.
func ReadRegular(path string, limit int64) ([]byte, error) {
	return readRegular(byPath{}, path, limit)
}

func readRegular(in directory, name string, limit int64) ([]byte, error) {
	f, err := openRegular(in, name)
	if err != nil {
		return nil, err
	}
	return readClose(f, limit)
}

func readClose(f *os.File, limit int64) ([]byte, error) {
	defer f.Close()
	b, err := ReadAll(f, limit)
	if errors.Is(err, ErrTooLarge) {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return b, err // a PathError of os.File's
}

// OpenRegular opens a regular file for reading, ErrNotRegular for anything else;
// a named pipe does not block it.
func OpenRegular(path string) (*os.File, error) { return openRegular(byPath{}, path) }

func openRegular(in directory, name string) (*os.File, error) {
	f, err := in.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// TryLock takes the exclusive lock of an open file (flock(2)) without waiting:
// ErrLocked if another process holds it, and the system's error where the file
// system knows no locks. The kernel gives the lock up when the file is closed,
// so also when the process ends, however it ends.
func TryLock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

// Unlock gives up the lock of f and closes it. Closing alone would leave the lock
// to a child process that is just being started, until it runs its program.
func Unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// WriteNew writes a file that must not exist yet (fs.ErrExist), and makes its
// content durable; its name is durable after SyncDir. On failure the file may be
// there in part.
func WriteNew(path string, data []byte, perm os.FileMode) error {
	return writeNew(byPath{}, path, data, perm)
}

func writeNew(in directory, name string, data []byte, perm os.FileMode) error {
	f, err := in.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// Replace writes data to path, atomically and durably: whatever happens, path is
// as it was or holds all of data. One process at a time may replace a path, since
// what a killed one left at path.partial is removed first.
func Replace(path string, data []byte, perm os.FileMode) error {
	return replace(byPath{}, path, data, perm)
}

func replace(in directory, name string, data []byte, perm os.FileMode) error {
	partial := name + partialSuffix
	if err := in.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := writeNew(in, partial, data, perm)
	if err == nil {
		err = commit(in, partial, name)
	}
	if err != nil {
		_ = in.Remove(partial)
	}
	return err
}

// commit renames partial, whose content is durable already, to name, which is in
// the same directory, and makes the name durable.
func commit(in directory, partial, name string) error {
	if err := in.Rename(partial, name); err != nil {
		return err
	}
	return syncDir(in, filepath.Dir(name))
}

// RenameNew renames from to a name that nothing has: fs.ErrExist if something has it. Where the file
// system cannot see to that by itself, a file is linked, and what cannot be linked is looked for first.
func RenameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	if err = os.Link(from, to); err == nil {
		return os.Remove(from)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// SyncDir makes durable which names are in a directory.
func SyncDir(dir string) error { return syncDir(byPath{}, dir) }

func syncDir(in directory, name string) error {
	d, err := in.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
