package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// FS is a file system on the login node: by SFTP (Client.FS), or the machine's own (Local). Paths
// are absolute and use slashes. Errors answer to errors.Is with fs.ErrNotExist and the like.
type FS interface {
	Stat(path string) (fs.FileInfo, error)
	Lstat(path string) (fs.FileInfo, error)
	// Open opens a regular file, through links too; anything else is ErrNotRegular, and a named pipe is not waited for.
	Open(path string) (File, error)
	// Create makes a new file; one that exists, and a symbolic link, are fs.ErrExist. It never has more
	// permissions than perm; a umask can take some away.
	Create(path string, perm fs.FileMode) (WriteFile, error)
	// Reopen opens a file that exists to go on writing it. Symbolic links are followed where the
	// protocol knows no other way: look at the content before writing any.
	Reopen(path string) (WriteFile, error)
	// Mkdir makes a directory, with permissions as Create gives them.
	Mkdir(path string, perm fs.FileMode) error
	// Rename gives a file another name in its directory, fs.ErrExist if something has that: whatever the
	// path has come to lead to, nothing there is replaced.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// ReadDir lists a directory in order of names.
	ReadDir(path string) ([]fs.FileInfo, error)
	// Readlink returns a symbolic link's target.
	Readlink(path string) (string, error)
	// RealPath resolves symbolic links.
	RealPath(path string) (string, error)
	// Free returns the bytes that the caller may still write below path; -1 if the server cannot tell.
	Free(path string) (int64, error)
}

// ErrNotRegular: something else than a file lies there.
var ErrNotRegular = errors.New("not a regular file")

// checkRegular returns ErrNotRegular for what is something else.
func checkRegular(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s is a %s, %w", At(path), kindOf(info.Mode()), ErrNotRegular)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// At returns how people are shown a path on the login node, apart from those on this machine: site:/scratch/... What
// programs read, commands to be copied among it, has paths as they are.
func At(path string) string { return "site:" + path }

// File is a file that is open for reading.
type File interface {
	io.Reader
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// WriteFile is a file that is open for writing, and for reading what is there.
type WriteFile interface {
	io.Writer
	io.WriterAt
	io.ReaderFrom
	io.ReaderAt
	io.Closer
	Chmod(perm fs.FileMode) error
	// Sync makes the contents durable, where the server can.
	Sync() error
}

// settled makes a file durable and returns what lies under its name: both are asked at once, since the
// login node may be far away.
func settled(fsys FS, f WriteFile, name string) (fs.FileInfo, error) {
	synced := make(chan error, 1)
	go func() { synced <- f.Sync() }()
	info, err := fsys.Lstat(name)
	return info, errors.Join(<-synced, err)
}

// ReadFile reads a small file: more than limit bytes are an error.
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &missing{fmt.Sprintf("there is no %s", At(path)), err}
	}
	if errors.Is(err, ErrNotRegular) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", At(path), err)
	}
	defer f.Close()
	data, err := fsx.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", At(path), err)
	}
	return data, nil
}

// missing says in a sentence that a file is not there.
type missing struct {
	text string
	err  error
}

func (m *missing) Error() string { return m.text }
func (m *missing) Unwrap() error { return m.err }
