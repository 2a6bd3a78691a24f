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
	Interrupted       // Ctrl-C or SIGTERM
)

var classNames = [...]string{"none", "other", "usage", "configuration", "SSH", "attestation", "key", "integrity", "Slurm", "job", "interrupted"}

// String returns the class's name.
func (c Class) String() string { return classNames[c] }

// Error carries a class and a hint around another error. Error types of their
// own give the methods FaultClass and NextStep instead.
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

// Error returns the wrapped error's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// FaultClass returns the class.
func (e *Error) FaultClass() Class { return e.Class }

// NextStep returns the hint.
func (e *Error) NextStep() string { return e.Hint }

// ClassOf returns the outermost class in err's tree, Interrupted for a cancelled
// context, None for nil, and else Other.
func ClassOf(err error) Class {
	var classed interface{ FaultClass() Class }
	switch {
	case err == nil:
		return None
	case errors.As(err, &classed) && classed.FaultClass() != None:
		return classed.FaultClass()
	case errors.Is(err, context.Canceled):
		return Interrupted
	}
	return Other
}

// Hint returns the outermost hint in err's tree that is not empty.
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
