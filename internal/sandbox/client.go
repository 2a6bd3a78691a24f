package sandbox

import (
	"context"
	"fmt"
	"os"
	"sync"
)

// client is a Space's end of the conversation with its child.
type client struct {
	wire *wire
	gone chan struct{} // closed when the child has ended

	mu     sync.Mutex
	lastID uint64
	calls  map[uint64]chan answer
	procs  map[uint64]*Proc
}

type answer struct {
	reply reply
	file  *os.File
}

func newClient(w *wire) *client {
	return &client{wire: w, gone: make(chan struct{}), calls: map[uint64]chan answer{}, procs: map[uint64]*Proc{}}
}

// receive delivers the child's messages to whom they are for.
func (c *client) receive() {
	for {
		var r reply
		file, err := c.wire.recv(&r)
		if err != nil {
			c.wire.conn.Close() // the child ends when it sees this
			return
		}
		if !c.deliver(r, file) && file != nil {
			file.Close()
		}
	}
}

// deliver reports whether somebody took file.
func (c *client) deliver(r reply, file *os.File) (taken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Exited {
		if p, ok := c.procs[r.ID]; ok {
			delete(c.procs, r.ID)
			p.exit = exitOf(r.Status)
			close(p.done)
		}
		return false
	}
	call, ok := c.calls[r.ID]
	if ok {
		delete(c.calls, r.ID)
		call <- answer{r, file}
	}
	return ok
}

// call sends r to the child and waits for the answer.
func (c *client) call(ctx context.Context, r request) (*os.File, error) {
	return c.callFor(ctx, nil, r)
}

// callFor is call, and notes that the end of p, if any, will be reported under
// the request's ID.
func (c *client) callFor(ctx context.Context, p *Proc, r request) (*os.File, error) {
	answers := make(chan answer, 1)
	c.mu.Lock()
	c.lastID++
	r.ID = c.lastID
	c.calls[r.ID] = answers
	if p != nil {
		p.id = r.ID
		c.procs[r.ID] = p
	}
	c.mu.Unlock()
	defer c.forget(r.ID, answers)
	if err := c.wire.send(r, -1); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case a := <-answers:
		return a.file, a.reply.err()
	case <-c.gone:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget ends the wait for answer id; one that still comes is dropped.
func (c *client) forget(id uint64, answers chan answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
	select {
	case a := <-answers: // it came while the caller gave up
		if a.file != nil {
			a.file.Close()
		}
	default:
	}
}

// forgetProc drops a process that was not started.
func (c *client) forgetProc(p *Proc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.procs, p.id)
}

// alive reports whether the child has not ended.
func (c *client) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}
