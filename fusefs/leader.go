package fusefs

import (
	"sync/atomic"
	"time"
)

// leadership is about which worker takes the next request: the leader. The others,
// its followers, wait to lead. The leader keeps leading while it answers what takes
// microseconds, and has a follower lead before what takes longer. Should an answer
// take long unexpectedly, the watchdog does that.
type leadership struct {
	lead      chan struct{} // holds one value, unless a worker leads
	followers atomic.Int32  // workers that wait to lead

	begun  time.Time
	busy   atomic.Int64  // since when the leader has been answering, nanoseconds from begun; 0 if it is not
	parked atomic.Bool   // the watchdog is not looking
	wake   chan struct{} // wakes it
	done   chan struct{} // ends it
}

const (
	// busyLimit is how long requests wait for a leader that is busy. The watchdog
	// looks that often, and parks when it saw nothing so many times.
	busyLimit  = time.Millisecond
	quietLooks = 100
)

func newLeadership() leadership {
	return leadership{
		lead: make(chan struct{}, 1), begun: time.Now(), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// yieldLead has a follower lead; one is started if none waits.
func (c *conn) yieldLead() {
	if c.followers.Load() == 0 && c.started.Load() < maxWorkers {
		c.start()
	}
	c.lead <- struct{}{}
}

// whileLeading has the leader answer a request, and reports whether it still leads
// then.
func (c *conn) whileLeading(answer func()) bool {
	now := int64(time.Since(c.begun))
	c.busy.Store(now)
	if c.parked.Load() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	answer()
	return c.busy.CompareAndSwap(now, 0)
}

// watchdog has a follower lead when the leader is busy for too long.
func (c *conn) watchdog() {
	look := time.NewTimer(busyLimit)
	defer look.Stop()
	for quiet := 0; ; quiet++ {
		select {
		case <-look.C:
		case <-c.done:
			return
		}
		since := c.busy.Load()
		if since != 0 {
			quiet = 0
			if time.Since(c.begun)-time.Duration(since) > busyLimit && c.busy.CompareAndSwap(since, 0) {
				c.yieldLead()
			}
		}
		if quiet == quietLooks {
			c.park()
			quiet = 0
		}
		look.Reset(busyLimit)
	}
}

// park returns when a worker begins to answer.
func (c *conn) park() {
	// What begins from here on wakes it; what began before is seen.
	if c.parked.Store(true); c.busy.Load() == 0 {
		select {
		case <-c.wake:
		case <-c.done:
		}
	}
	c.parked.Store(false)
}
