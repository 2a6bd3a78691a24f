// Package fault says of an error what kind it is and what to do about it. An
// error has a class, one of those that docs/cli.md documents, a hint that names
// the next step, and a cause. Only programs turn a class into an exit code.
package fault

import (
	"context"
	"errors"
)

// Class is the kind of a failure, by what has to be looked at.
type Class int

// The classes. None is no error's; Other is what no error says otherwise.
const (
	None        Class = iota
	Other             // anything not below
	Usage             // wrong flags, arguments or input
	Config            // a configuration file
	SSH               // SSH connection, authentication or host key
	Attestation       // evidence refused
	Key               // key refused
	Integrity         // a signature, digest or authentication tag is wrong
	Slurm             // a Slurm command failed
	Job               // the job itself failed
	Incomplete        // what could be kept is there, and not all could
	Empty             // the job has ended, and there is nothing of it to open
	Interrupted       // Ctrl-C or SIGTERM
)

var classNames = [...]string{"none", "other", "usage", "configuration", "SSH", "attestation", "key", "integrity",
	"Slurm", "job", "incomplete", "empty", "interrupted"}

// String returns the class's name.
func (c Class) String() string { return classNames[c] }

// Error carries a class and a hint around another error.
type Error struct {
	Class Class
	Err   error
	Hint  string // what to do next; may be empty
}

// New returns an *Error, or nil if err is nil.
func New(class Class, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Class: class, Err: err, Hint: hint}
}

// Sentinel returns an error for a package's variable: errors.Is finds it in what
// wraps it, and ClassOf its class.
func Sentinel(class Class, text string) error { return New(class, errors.New(text), "") }

// WithHint returns err with a hint, of the class that it has; nil for nil.
func WithHint(err error, hint string) error { return New(ClassOf(err), err, hint) }

// Error returns the wrapped error's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the outermost class in err's tree that says something,
// Interrupted for a cancelled context, None for nil, and else Other.
func ClassOf(err error) Class {
	if err == nil {
		return None
	}
	if e := find(err, func(e *Error) bool { return e.Class != None && e.Class != Other }); e != nil {
		return e.Class
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	return Other
}

// Hint returns the outermost hint in err's tree that is not empty.
func Hint(err error) string {
	if e := find(err, func(e *Error) bool { return e.Hint != "" }); e != nil {
		return e.Hint
	}
	return ""
}

// find walks err's tree as errors.As does, and returns the first *Error that fits.
func find(err error, fits func(*Error) bool) *Error {
	if e, ok := err.(*Error); ok && fits(e) {
		return e
	}
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		return find(w.Unwrap(), fits)
	case interface{ Unwrap() []error }:
		for _, inner := range w.Unwrap() {
			if e := find(inner, fits); e != nil {
				return e
			}
		}
	}
	return nil
}
