package transfer

import (
	"github.com/sealbatch/sealbatch/internal/fault"
)

// Kinds of errors; test with errors.Is; each has its class. All errors of Dial are of one of the first five.
var (
	ErrConfig         = fault.Sentinel(fault.SSH, "SSH configuration error")
	ErrConnect        = fault.Sentinel(fault.SSH, "cannot connect")
	ErrHostKeyUnknown = fault.Sentinel(fault.SSH, "unknown host key")
	ErrHostKeyChanged = fault.Sentinel(fault.SSH, "changed host key")
	ErrAuth           = fault.Sentinel(fault.SSH, "login refused")
	ErrPartial        = fault.Sentinel(fault.SSH, "an unfinished upload lies there")
	ErrAncestor       = fault.Sentinel(fault.SSH, "directory that others can change")
	ErrFull           = fault.Sentinel(fault.Other, "no space left")
	ErrProtocol       = fault.Sentinel(fault.SSH, "no SFTP, or without end")
	ErrMode           = fault.Sentinel(fault.SSH, "made with a wider mode than was asked for")
	ErrNoSFTP         = fault.Sentinel(fault.SSH, "no SFTP there")
	ErrNoCommands     = fault.Sentinel(fault.SSH, "no commands can be run there")
	ErrSource         = fault.Sentinel(fault.Other, "the file to send is not the one that was made")
)

// Error is an error with its kind and the next step for the user.
type Error struct {
	Kind error  // one of the kinds above
	What string // what happened and where
	Next string // what to do next; may be empty
	Err  error  // cause; may be nil
}

// Error returns what happened and why.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.What + ": " + e.Err.Error()
	}
	return e.What
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Kind, e.Err}
	}
	return []error{e.Kind}
}

// fail returns e with the class of its kind, and its hint.
func fail(e Error) error { return fault.New(fault.ClassOf(e.Kind), &e, e.Next) }
