package fusefs

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

const (
	// For so long the leader spins after a request before its thread sleeps. Who
	// reads file after file asks again within microseconds, and being woken costs
	// more than all the rest. It is more where more would have helped, and less
	// where it did not.
	leastSpin = 50 * time.Microsecond
	mostSpin  = 400 * time.Microsecond
	// slowRead is how long a read takes that others should not have to wait for.
	slowRead = 250 * time.Microsecond
)

// worker has buffers for one request at a time.
type worker struct {
	*conn
	in    []byte
	out   []byte // most of it is never touched, and so takes no memory
	batch *batch // to run before the request is answered; nil if none
}

func (c *conn) newWorker() *worker {
	return &worker{conn: c, in: make([]byte, maxRequest), out: make([]byte, maxReply)}
}

func (w *worker) header() *fuse.InHeader { return (*fuse.InHeader)(unsafe.Pointer(&w.in[0])) }

func (w *worker) readIn() *fuse.ReadIn { return (*fuse.ReadIn)(unsafe.Pointer(&w.in[0])) }

// work answers requests until the connection ends.
func (w *worker) work() {
	for {
		w.followers.Add(1)
		<-w.lead
		w.followers.Add(-1)
		for leading := true; leading; {
			n, err := w.next()
			if errors.Is(err, errYielded) {
				break
			}
			if err != nil {
				if !errors.Is(err, unix.ENODEV) {
					w.log.Error("the FUSE connection broke", "error", err)
				}
				w.lead <- struct{}{} // the others see it, too
				return
			}
			if w.takesLong(n) {
				w.yieldLead()
				w.answer(n)
				leading = false
			} else {
				leading = w.whileLeading(func() { w.answer(n) })
			}
		}
	}
}

// takesLong reports whether others had better not wait for the request to be answered.
func (w *worker) takesLong(n int) bool {
	w.batch = nil
	if w.header().Opcode != fuseRead || n < readBytes {
		return false
	}
	if in := w.readIn(); in.Flags&unix.O_DIRECT == 0 {
		w.batch = w.tree.observe(in.NodeId, int64(in.Offset), int(min(in.Size, fusemount.MaxRead)))
	}
	return w.batch != nil || w.reading.above(slowRead) || w.pending(0)
}

// pending waits up to limit milliseconds, for ever if that is negative, for a request
// to be there, and reports whether one is.
func (c *conn) pending(limit int) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, limit)
	return n > 0
}

// errYielded: another worker leads meanwhile.
var errYielded = errors.New("another worker leads")

// next reads a request: for a while it spins, helping others to prefetch and letting
// them run meanwhile, then it sleeps.
func (w *worker) next() (int, error) {
	var begin time.Time
	for {
		n, err := unix.Read(w.fd, w.in)
		switch {
		case err == nil && n < headerBytes:
			return 0, fmt.Errorf("a request of %d bytes", n)
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // the second: it was taken back
			continue
		case !errors.Is(err, unix.EAGAIN):
			return 0, err
		}
		if b := w.tree.prefetcher.helpable(); b != nil {
			if !w.whileLeading(func() { b.step() }) {
				return 0, errYielded
			}
			begin = time.Time{}
			continue
		}
		if begin.IsZero() {
			begin = time.Now()
		}
		if time.Since(begin) < w.spin {
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		w.pending(-1)
		w.adapt(time.Since(begin))
		begin = time.Time{}
	}
}

// adapt changes how long to spin, after that was too short by however much.
func (c *conn) adapt(idle time.Duration) {
	switch {
	case c.spin == 0: // there is one processor only
	case idle < mostSpin:
		c.spin = min(2*c.spin, mostSpin)
	default:
		c.spin = max(c.spin/2, leastSpin)
	}
}
