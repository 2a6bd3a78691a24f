package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit codes of sealbatch, by cause. A job's supervisor exits with its application's own code.
const (
	CodeOther       = 1   // anything not below
	CodeUsage       = 2   // wrong flags or arguments
	CodeConfig      = 3   // a configuration file
	CodeSSH         = 4   // SSH connection, authentication or host key
	CodeAttestation = 5   // attestation refused
	CodeKey         = 6   // key refused
	CodeIntegrity   = 7   // a signature, digest or authentication tag is wrong
	CodeSlurm       = 8   // a Slurm command failed
	CodeJob         = 9   // the job itself failed
	CodeInterrupted = 130 // Ctrl-C or SIGTERM
)

// Error carries an exit code and a hint for the user around another error. Libraries that must not
// import this package give their errors methods ErrorCode() int and NextStep() string instead.
type Error struct {
	Code int
	Err  error
	Hint string // what to do next; may be empty
}

// Fail makes an *Error. It returns nil if err is nil.
func Fail(code int, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err, Hint: hint}
}

// Error gives the wrapped error's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// ErrorCode gives the exit code.
func (e *Error) ErrorCode() int { return e.Code }

// NextStep gives the hint.
func (e *Error) NextStep() string { return e.Hint }

// ExitCode tells with which code the process should end: 0 for nil, the outermost code in the
// error's tree, 130 for a cancelled context, else 1.
func ExitCode(err error) int {
	var coded interface{ ErrorCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded) && coded.ErrorCode() != 0:
		return coded.ErrorCode()
	case errors.Is(err, context.Canceled):
		return CodeInterrupted
	}
	return CodeOther
}

// Hint gives the outermost hint in the error's tree that is not empty.
func Hint(err error) string {
	for err != nil {
		var h interface{ NextStep() string }
		if !errors.As(err, &h) {
			return ""
		}
		if s := h.NextStep(); s != "" {
			return s
		}
		inner, ok := h.(interface{ Unwrap() error })
		if !ok {
			return ""
		}
		err = inner.Unwrap()
	}
	return ""
}

// PrintError writes "error: ..." and, where one is known, "hint: ...". Control characters, which
// may come from file names or from the other side of a connection, are shown escaped.
func PrintError(w io.Writer, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(w, "error: %s\n", Printable(err.Error()))
	if h := Hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", Printable(h))
	}
}

// Printable escapes everything in s that could steer a terminal, except line ends, which it indents.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimRight(s, "\n") {
		switch {
		case r == '\n':
			b.WriteString("\n  ")
		case r == '\t':
			b.WriteByte(' ')
		case r < 0x20 || (r >= 0x7f && r < 0xa0) || r == 0xfffd ||
			(r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
