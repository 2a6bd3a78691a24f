package doctor

import (
	"fmt"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Finding is one thing that was looked at.
type Finding struct {
	What   string
	Bad    bool   // jobs cannot run like this
	Warn   bool   // they can, but somebody should know
	Detail string // what was found, or why it is bad
	Fix    string // what to do about it; may be empty
}

// Failed returns the finding that err keeps jobs from running; its hint is the fix.
func Failed(what string, err error) Finding {
	return Finding{What: what, Bad: true, Detail: err.Error(), Fix: fault.Hint(err)}
}

// Report hears findings one by one, as soon as they are made.
type Report func(Finding)

func (r Report) ok(what, format string, args ...any) {
	r(Finding{What: what, Detail: fmt.Sprintf(format, args...)})
}

func (r Report) warn(what, detail, fix string) {
	r(Finding{What: what, Warn: true, Detail: detail, Fix: fix})
}

func (r Report) bad(what, detail, fix string) {
	r(Finding{What: what, Bad: true, Detail: detail, Fix: fix})
}

func (r Report) failed(what string, err error) { r(Failed(what, err)) }
