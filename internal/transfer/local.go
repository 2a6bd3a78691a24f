package transfer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// openExclusive never follows a symbolic link (POSIX: O_EXCL with O_CREAT).
const openExclusive = os.O_RDWR | os.O_CREATE | os.O_EXCL

// Local is this machine, for sealbatch on the login node itself. It is an FS and runs commands.
type Local struct{}

// Stat follows symbolic links.
func (Local) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }

// Lstat does not.
func (Local) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(path) }

// Open opens for reading; it does not wait for the other end of a named pipe.
func (Local) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkRegular(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Create makes a new file.
func (Local) Create(path string, perm fs.FileMode) (WriteFile, error) {
	f, err := os.OpenFile(path, openExclusive, perm.Perm())
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Reopen opens an existing file for reading and writing, but no symbolic link.
func (Local) Reopen(path string) (WriteFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Free asks statfs(2).
func (Local) Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Mkdir is mkdir(2).
func (Local) Mkdir(path string, perm fs.FileMode) error { return os.Mkdir(path, perm.Perm()) }

// Rename is renameat2(2) with RENAME_NOREPLACE, or what OpenSSH does where the file system knows none.
func (Local) Rename(from, to string) error { return fsx.RenameNew(from, to) }

// Remove removes a file or an empty directory.
func (Local) Remove(path string) error { return os.Remove(path) }

// ReadDir lists a directory.
func (Local) ReadDir(path string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	out := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			if os.IsNotExist(err) {
				continue // removed meanwhile
			}
			return nil, err
		}
		out = append(out, info)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name() < out[j].Name() })
	return out, nil
}

// Readlink returns a symbolic link's target.
func (Local) Readlink(path string) (string, error) { return os.Readlink(path) }

// RealPath resolves symbolic links.
func (Local) RealPath(path string) (string, error) {
	p, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(p)
}
