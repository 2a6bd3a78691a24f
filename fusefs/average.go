package fusefs

import (
	"sync/atomic"
	"time"
)

// average is a running mean of durations, in which the latest counts for an eighth.
type average struct{ nanoseconds atomic.Int64 }

func (a *average) add(d time.Duration) {
	old := a.nanoseconds.Load()
	a.nanoseconds.Store(old + (int64(d)-old)/8) // two that add at once do no harm
}

func (a *average) above(d time.Duration) bool { return time.Duration(a.nanoseconds.Load()) > d }
