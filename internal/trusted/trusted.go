// Package trusted opens files whose content decides something (whom to believe,
// who may do what, which key is one's own), and refuses those that somebody
// else can have written:
//
//	every directory on the way   belongs to root or to this process's user, and
//	                             neither group nor others can write it, except
//	                             with the sticky bit, as /tmp has it
//	every symbolic link          belongs to root or to this process's user; where
//	                             it leads is walked in the same way
//	the file, or directory       belongs to root or to this process's user, and
//	                             neither group nor others can write it; a Secret
//	                             they cannot read, either
//
// For root in a container, the owner of what is mounted at /tmp counts as this process's
// user, too (internal/userdirs).
//
// Where there is a POSIX access list, what it gives to others counts as the group's.
// A service may have one group count as its user (ShareGroup).
// The walk opens each place below the one before and looks at it through its
// descriptor: what is opened in the end is what was looked at. Everything that
// is wrong on the way is reported at once, with the commands that mend it.
package trusted

import (
	"errors"
	"os"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// Kind is what others must not be able to do with a file.
type Kind int

// The kinds.
const (
	Public Kind = iota // others may read it
	Secret             // others may neither read nor write it
	dir                // a directory: others may read it
)

// Open opens a regular file for reading: ErrUnsafe if others can have written
// it, fsx.ErrNotRegular if it is none. What the caller was handed as an open
// descriptor, as a shell's <(...) and standard input are, is taken as it is, if
// it is no file.
func Open(path string, k Kind) (*os.File, error) { return OpenFile(path, os.O_RDONLY, 0, k) }

// OpenFile is Open with the flags and the mode of os.OpenFile.
func OpenFile(path string, flag int, perm os.FileMode, k Kind) (*os.File, error) {
	if f, ok, err := handed(path, k); ok {
		return f, err
	}
	w := newWalk(k)
	defer w.close()
	return w.file(path, flag, perm)
}

// ReadFile reads a file of at most limit bytes, which others may read.
func ReadFile(path string, limit int64) ([]byte, error) { return read(path, limit, Public) }

// ReadSecret reads a file of at most limit bytes, which others may not read.
func ReadSecret(path string, limit int64) ([]byte, error) { return read(path, limit, Secret) }

func read(path string, limit int64, k Kind) ([]byte, error) {
	f, err := Open(path, k)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := fsx.ReadAll(f, limit)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: cause(err)}
	}
	return b, nil
}

// Check is Open for a file that somebody else opens.
func Check(path string, k Kind) error {
	f, err := Open(path, k)
	if err != nil {
		return err
	}
	return f.Close()
}

// CheckDir holds a directory, and those on the way to it, to the rules.
func CheckDir(path string) error {
	w := newWalk(dir)
	defer w.close()
	return w.directory(path)
}

// CheckWay holds an absolute path of directories, none of them a symbolic link, to
// what is asked of a directory on the way: in the last one, too, the sticky bit is
// enough.
func CheckWay(path string) error {
	w := newWalk(dir)
	defer w.close()
	rest, err := w.begin(path)
	for i := 0; err == nil && i < len(rest); i++ {
		err = w.step(rest[i])
	}
	return errors.Join(w.verdict(path), err)
}

// CheckFile holds an open file to the rules, and nothing on the way to it, as
// OpenSSH does with its own files.
func CheckFile(f *os.File, k Kind) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	w := newWalk(k)
	w.look(f, fi)
	return w.verdict(f.Name())
}
