package config

import (
	"fmt"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// ErrConfig is wrapped by every error of this package.
var ErrConfig = fault.Sentinel(fault.Config, "configuration error")

// Error says where in which file something is wrong, and what to do about it.
type Error struct {
	File string // path of the configuration file
	Line int    // 1-based; 0 if the error belongs to no line
	What string // what is wrong and why, for people
	Next string // what to do next; may be empty
}

// Error returns "client.conf:12: ...".
func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
	}
	return fmt.Sprintf("%s: %s", e.File, e.What)
}

// Unwrap makes errors.Is(err, ErrConfig) true.
func (e *Error) Unwrap() error { return ErrConfig }

// fail returns e with its hint.
func fail(e Error) error { return fault.New(fault.Config, &e, e.Next) }
