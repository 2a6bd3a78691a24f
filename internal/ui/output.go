package ui

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Output is a program's standard output. It remembers the first write that failed, so that one look at the end tells
// whether whoever asked has the whole answer. A reader that went away ends the process by SIGPIPE, as of any program.
type Output struct {
	f      *os.File
	absent bool

	mu     sync.Mutex
	used   bool
	failed error
	holds  string // what is written, if it is no answer
}

// NewOutput returns the output of f. If f was not open when the program was started, it is absent: every write fails.
func NewOutput(f *os.File, absent bool) *Output { return &Output{f: f, absent: absent} }

// Holds says that what is written is no answer, but what the command is for, and how that is called: if a write fails,
// it is not whole.
func (o *Output) Holds(what string) { o.holds = what }

// Write writes to the file. After a failure nothing more is written.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed == nil && o.absent {
		o.failed = o.unwritten(os.ErrClosed)
	}
	if o.failed != nil {
		return 0, o.failed
	}
	o.used = true
	n, err := o.f.Write(p)
	o.failed = o.unwritten(err)
	return n, o.failed
}

// Columns returns how wide the terminal is that the output goes to, 0 if it is none.
func (o *Output) Columns() int {
	if !IsTerminal(o.f) {
		return 0
	}
	return columnsOf(o.f)
}

// Close closes the file if anything was written, as only then some file systems say that there was no room. It returns
// the failure of the first write that failed, as Write did.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.used && o.failed == nil {
		o.failed = o.unwritten(o.f.Close())
	}
	return o.failed
}

// unwritten says what a failed write means to whoever waits for what is written.
func (o *Output) unwritten(err error) error {
	var bare *os.PathError
	if errors.As(err, &bare) {
		err = bare.Err
	}
	if errors.Is(err, os.ErrClosed) {
		err = errors.New("it is closed")
	}
	if err == nil {
		return nil
	}
	if o.holds != "" {
		return fault.New(fault.Other, fmt.Errorf("%s could not be written to standard output: %w", o.holds, err),
			"what has been written is not whole and will not open: discard it, and run the same command again where all of it can go")
	}
	return fault.New(fault.Other, fmt.Errorf("the answer could not be written to standard output: %w", err),
		"everything else that the command does is done; only its answer is missing")
}
