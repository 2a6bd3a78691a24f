package output

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/term"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// Stdin leads to what this process was given to read, as one of a File's Inputs.
const Stdin = "/proc/self/fd/0"

// Stream opens what is only written to as it is, from its beginning to its end, and never replaced: a
// named pipe, or a character device that is no terminal. It returns nil for what is neither.
func (f File) Stream() (*os.File, error) {
	st, err := os.Stat(f.Path)
	if err != nil || st.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice) == 0 {
		return nil, nil
	}
	if err := Apart(f.Path, f.Inputs...); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(f.Path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := noTerminal(out); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// noTerminal fails if what is to be written in binary is a terminal.
func noTerminal(f *os.File) error {
	if !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return refused(ErrKind, "send it to a file or a program, or name a file", "the output is a terminal, and what is written is binary")
}

// CheckStdout finds out whether standard output, wherever a shell sent it, may take what is made from
// the inputs: ErrKind if it is a terminal, ErrInput if it is one of them or lies in one.
func CheckStdout(inputs []string) error {
	if err := noTerminal(os.Stdout); err != nil {
		return err
	}
	path, err := os.Readlink(fsx.FDPath(os.Stdout))
	if err != nil {
		return nil // it has no name
	}
	return Apart(path, inputs...)
}
