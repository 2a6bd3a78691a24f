package transfer

import (
	"errors"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Kinds of errors; test with errors.Is. All errors of Dial are of one of the first five.
var (
	ErrConfig         = errors.New("SSH configuration error")
	ErrConnect        = errors.New("cannot connect")
	ErrHostKeyUnknown = errors.New("unknown host key")
	ErrHostKeyChanged = errors.New("changed host key")
	ErrAuth           = errors.New("login refused")
	ErrPartial        = errors.New("an unfinished upload lies there")
	ErrAncestor       = errors.New("directory that others can change")
	ErrFull           = errors.New("no space left")
	ErrProtocol       = errors.New("no SFTP, or without end")
	ErrSource         = errors.New("the file to send is not the one that was made")
)

// Error is an error with its kind and the next step for the user.
type Error struct {
	Kind error  // one of the kinds above
	What string // what happened and where
	Next string // what to do next; may be empty
	Err  error  // cause; may be nil
}

// Error says what happened and why.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.What + ": " + e.Err.Error()
	}
	return e.What
}

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}

// FaultClass returns fault.SSH, unless the error is about a file.
func (e *Error) FaultClass() fault.Class {
	if e.Kind == ErrFull || e.Kind == ErrSource {
		return fault.Other
	}
	return fault.SSH
}

// NextStep is a hint for the user.
func (e *Error) NextStep() string { return e.Next }
