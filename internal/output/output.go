// Package output makes the files and directories that users name.
//
// Nothing that exists is opened for writing, and nothing of anybody else's is removed:
//
//	Check   the output is none of its inputs (by device and inode), lies in none of them,
//	        and what has its name may be replaced: a regular file, where that was asked for
//	Create  a file without a name (O_TMPFILE), or, where the file system knows none such, and for
//	        directories, under a name that nobody can guess: there is nothing to be mistaken for a
//	        leftover of one's own
//	Commit  makes it durable, looks again, and gives it its name
//
// Of a process that is killed stays nothing, or something under such a name.
package output

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Errors that callers tell apart. fs.ErrExist says that a name is taken.
var (
	ErrInput = errors.New("an output that is one of its inputs")
	ErrKind  = errors.New("an output that cannot be replaced")
)

// refused is an error of the user's: what is wrong, as which it counts, and what to do.
func refused(is error, hint, format string, args ...any) error {
	return fault.New(fault.Usage, &refusal{fmt.Sprintf(format, args...), is}, hint)
}

// refusal is an error with a text of its own.
type refusal struct {
	text string
	is   error
}

func (r *refusal) Error() string        { return r.text }
func (r *refusal) Is(target error) bool { return target == r.is }

// Named fails with ErrKind if path is no name for what cannot go to standard output: "" or -.
func Named(path string) error {
	switch path {
	case "":
		return refused(ErrKind, hintOther, "the output has no name")
	case "-":
		return refused(ErrKind, hintOther+": ./- is one of that name", "- would be standard output, where this cannot go")
	}
	return nil
}

// inDirectory fails if there is no directory in which path could lie: fs.ErrNotExist if nothing has that name, ErrKind if
// something else has.
func inDirectory(path string) error {
	dir := filepath.Dir(filepath.Clean(path))
	switch st, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return refused(fs.ErrNotExist, "make it, or name another place for the output", "there is no directory %s", dir)
	case errors.Is(err, syscall.ENOTDIR), err == nil && !st.IsDir():
		return refused(ErrKind, hintOther, "%s is no directory", dir)
	default:
		return err
	}
}

const hintOther = "choose another name for the output"

// Apart fails with ErrInput if path, or what it leads to, is one of the inputs, or would lie in one.
// Inputs that cannot be looked at are passed over: reading them says it better.
func Apart(path string, inputs ...string) error {
	out, err := os.Stat(path)
	if err != nil {
		out = nil
	}
	for _, input := range inputs {
		in, err := os.Stat(input)
		switch {
		case err != nil:
		case out != nil && os.SameFile(in, out):
			return refused(ErrInput, hintOther, "%s is the same file as %s", path, called(input))
		case in.IsDir() && holds(in, filepath.Dir(path)):
			return refused(ErrInput, "choose a directory outside "+input,
				"%s would lie in the directory that it is made from", path)
		}
	}
	return nil
}

// called returns how messages call an input.
func called(input string) string {
	if input == Stdin {
		return "standard input"
	}
	return "the input " + input
}

// holds reports whether dir is, or lies below, the directory top.
func holds(top fs.FileInfo, dir string) bool {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	for ; err == nil; dir = filepath.Dir(dir) {
		at, serr := os.Stat(dir)
		if serr == nil && os.SameFile(top, at) {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
	return false
}

// kindOf says what something is.
func kindOf(st fs.FileInfo) string {
	switch mode := st.Mode(); {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "a file"
}
