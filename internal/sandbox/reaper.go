package sandbox

import (
	"errors"

	"golang.org/x/sys/unix"
)

// start runs r.Cmd and answers before its end can be reported.
func (c *child) start(r request) {
	p, err := prepare(r.Cmd)
	if err != nil {
		answer := reply{ID: r.ID}
		answer.setError(err)
		c.answer(answer, -1)
		return
	}
	done := make(chan struct{})
	c.forks <- func() {
		defer close(done)
		c.mu.Lock()
		defer c.mu.Unlock()
		pid, err := p.start(c.plain)
		p.close() // before the answer: an open file would keep a mount busy
		if err == nil {
			c.procs[pid] = r.ID
		}
		answer := reply{ID: r.ID}
		answer.setError(err)
		c.answer(answer, -1)
	}
	<-done
}

// reap collects every process that ended, started or adopted. It reports whether
// there is no other child left.
func (c *child) reap() (none bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return errors.Is(err, unix.ECHILD)
		}
		if id, ok := c.procs[pid]; ok {
			delete(c.procs, pid)
			c.answer(reply{ID: id, Exited: true, Status: uint32(status)}, -1)
		}
	}
}

func (c *child) signal(id uint64, sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid, running := range c.procs {
		if running == id {
			return unix.Kill(pid, sig)
		}
	}
	return unix.ESRCH
}
