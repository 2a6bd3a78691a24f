package fusefs

import "time"

// pass lets another worker take the next request; one is started if none waits.
func (c *conn) pass() {
	if c.waiting.Load() == 0 && c.started.Load() < maxWorkers {
		c.start()
	}
	c.turn <- struct{}{}
}

// keep has the turn's holder answer a request, and tells whether it still has the
// turn then.
func (c *conn) keep(answer func()) bool {
	now := int64(time.Since(c.begun))
	c.keeping.Store(now)
	if c.dozing.Load() {
		select {
		case c.rouse <- struct{}{}:
		default:
		}
	}
	answer()
	return c.keeping.CompareAndSwap(now, 0)
}

// guard passes the turn on for a worker that keeps it too long.
func (c *conn) guard() {
	look := time.NewTimer(keepLimit)
	defer look.Stop()
	for quiet := 0; ; quiet++ {
		select {
		case <-look.C:
		case <-c.done:
			return
		}
		since := c.keeping.Load()
		if since != 0 {
			quiet = 0
			if time.Since(c.begun)-time.Duration(since) > keepLimit && c.keeping.CompareAndSwap(since, 0) {
				c.pass()
			}
		}
		if quiet == quietLooks {
			c.doze()
			quiet = 0
		}
		look.Reset(keepLimit)
	}
}

// doze returns when a worker begins to answer.
func (c *conn) doze() {
	// What begins from here on rouses it; what began before is seen.
	if c.dozing.Store(true); c.keeping.Load() == 0 {
		select {
		case <-c.rouse:
		case <-c.done:
		}
	}
	c.dozing.Store(false)
}
