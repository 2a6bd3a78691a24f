package fusefs

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// conn answers the requests of one FUSE connection. The protocol is go-fuse's;
// how requests are waited for is not, since that is most of what a small one
// costs. Of its workers, one at a time has the turn: it takes the next request.
// It keeps the turn while it answers what takes microseconds, and passes it on
// before what takes longer, or when more requests wait already. While there are
// none, it helps who hands something over (hander). Should that or an answer take
// long unexpectedly, the guard passes the turn on.
type conn struct {
	fd       int
	protocol *fuse.ProtocolServer
	tree     *treeFS
	log      *slog.Logger
	watch    time.Duration // the worker's that has the turn

	turn    chan struct{} // holds one value, unless a worker has it
	workers sync.WaitGroup
	started atomic.Int32
	waiting atomic.Int32 // workers that want the turn
	reading average      // how long reads take

	begun   time.Time
	keeping atomic.Int64  // since when who has the turn has been answering, nanoseconds from begun; 0 if not
	dozing  atomic.Bool   // the guard is not looking
	rouse   chan struct{} // wakes it
	done    chan struct{} // ends it
}

const (
	// maxWorkers is how many requests are worked on at once. The kernel sends no
	// more of its own accord (MaxBackground).
	maxWorkers = 64
	// For so long the connection is watched after a request before the thread
	// sleeps. Who reads file after file asks again within microseconds, and being
	// woken costs more than all the rest. It is more where more would have
	// helped, and less where it did not.
	leastWatch = 50 * time.Microsecond
	mostWatch  = 400 * time.Microsecond
	// slowRead is how long a read takes that others should not have to wait for.
	slowRead = 250 * time.Microsecond
	// keepLimit is how long they wait when nobody knew. The guard looks that
	// often, and dozes when it saw nothing so many times.
	keepLimit  = time.Millisecond
	quietLooks = 100
)

// Sizes of messages (linux/fuse.h). What comes is at most a name or two and, as
// nobody can write, what an ioctl passes (16 KiB); 8 KiB is the least that the
// kernel allows.
const (
	headerBytes = int(unsafe.Sizeof(fuse.InHeader{}))
	replyBytes  = int(unsafe.Sizeof(fuse.OutHeader{}))
	readBytes   = int(unsafe.Sizeof(fuse.ReadIn{}))
	maxRequest  = 32 << 10
	maxReply    = replyBytes + fusemount.MaxRead
	leastWrite  = 4096
)

// Operations that are not left to go-fuse (linux/fuse.h).
const (
	fuseForget      = 2
	fuseRead        = 15
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseBatchForget = 42
	// notifyStore is the code of a message that puts data into the kernel's cache.
	notifyStore = 4
)

// newConn takes a connection over and agrees with the kernel on how to speak. It
// owns fd, also when it fails.
func newConn(fd int, tree *treeFS, logger *slog.Logger) (*conn, error) {
	c := &conn{fd: fd, tree: tree, log: logger, turn: make(chan struct{}, 1),
		begun: time.Now(), rouse: make(chan struct{}, 1), done: make(chan struct{})}
	if runtime.GOMAXPROCS(0) > 1 { // else who should ask meanwhile
		c.watch = leastWatch
	}
	tree.hander.store = c.store
	c.protocol = fuse.NewProtocolServer(tree, &fuse.MountOptions{
		Name:     "sealbatch",
		MaxWrite: fusemount.MaxRead, MaxReadAhead: fusemount.MaxRead, MaxBackground: maxWorkers,
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true, DisableXAttrs: true,
		Logger: log.New(logWriter{logger}, "", 0),
	})
	if err := c.init(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return c, nil
}

// init answers the first request.
func (c *conn) init() error {
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return err
	}
	w := c.newWorker()
	n, err := w.next()
	if err != nil {
		return err
	}
	if op := w.header().Opcode; op != fuseInit || n < headerBytes+16 {
		return fmt.Errorf("the kernel begins with request %d, not with INIT", op)
	}
	c.tree.agree((*fuse.InitIn)(unsafe.Pointer(&w.in[0])).Flags)
	n, status := c.protocol.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
	if !status.Ok() || n < replyBytes+int(unsafe.Sizeof(fuse.InitOut{})) {
		return fmt.Errorf("the kernel's FUSE is not understood: %v", status)
	}
	// go-fuse derives from one number how much may be read and written at once.
	// Requests have to fit what is expected of writes.
	(*fuse.InitOut)(unsafe.Pointer(&w.out[replyBytes])).MaxWrite = leastWrite
	return w.reply(n)
}

// serve answers requests until the mount is gone.
func (c *conn) serve() {
	c.turn <- struct{}{}
	c.start()
	var guard sync.WaitGroup
	guard.Go(c.guard)
	c.workers.Wait()
	close(c.done)
	guard.Wait()
	unix.Close(c.fd)
}

func (c *conn) start() {
	c.started.Add(1)
	c.workers.Go(func() { c.newWorker().work() })
}

// worker has buffers for one request at a time.
type worker struct {
	*conn
	in   []byte
	out  []byte  // most of it is never touched, and so takes no memory
	also *handed // what to hand to the kernel before the request is answered; nil if nothing
}

func (c *conn) newWorker() *worker {
	return &worker{conn: c, in: make([]byte, maxRequest), out: make([]byte, maxReply)}
}

func (w *worker) header() *fuse.InHeader { return (*fuse.InHeader)(unsafe.Pointer(&w.in[0])) }

func (w *worker) readIn() *fuse.ReadIn { return (*fuse.ReadIn)(unsafe.Pointer(&w.in[0])) }

// work answers requests until the connection ends.
func (w *worker) work() {
	for {
		w.waiting.Add(1)
		<-w.turn
		w.waiting.Add(-1)
		for kept := true; kept; {
			n, err := w.next()
			if errors.Is(err, errPassed) {
				break
			}
			if err != nil {
				if !errors.Is(err, unix.ENODEV) {
					w.log.Error("the FUSE connection broke", "error", err)
				}
				w.turn <- struct{}{} // the others see it, too
				return
			}
			if w.takesLong(n) {
				w.pass()
				w.answer(n)
				kept = false
			} else {
				kept = w.keep(func() { w.answer(n) })
			}
		}
	}
}

// takesLong tells whether others had better not wait for the request to be answered.
func (w *worker) takesLong(n int) bool {
	w.also = nil
	if w.header().Opcode != fuseRead || n < readBytes {
		return false
	}
	if in := w.readIn(); in.Flags&unix.O_DIRECT == 0 {
		w.also = w.tree.follow(in.NodeId, int64(in.Offset), int(min(in.Size, fusemount.MaxRead)))
	}
	return w.also != nil || w.reading.above(slowRead) || w.more(0)
}

// more waits up to limit, for ever if that is negative, for a request to be there.
func (c *conn) more(limit int) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, limit)
	return n > 0
}

// errPassed: the turn went to another worker meanwhile.
var errPassed = errors.New("the turn was passed on")

// next reads a request: for a while it only looks, helping those who hand things
// over and letting others run meanwhile, then it sleeps.
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
		if b := w.tree.hander.toHelp(); b != nil {
			if !w.keep(func() { b.next() }) {
				return 0, errPassed
			}
			begin = time.Time{}
			continue
		}
		if begin.IsZero() {
			begin = time.Now()
		}
		if time.Since(begin) < w.watch {
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		w.more(-1)
		w.adapt(time.Since(begin))
		begin = time.Time{}
	}
}

// adapt changes how long to watch, after that was too short by however much.
func (c *conn) adapt(idle time.Duration) {
	switch {
	case c.watch == 0: // there is one processor only
	case idle < mostWatch:
		c.watch = min(2*c.watch, mostWatch)
	default:
		c.watch = max(c.watch/2, leastWatch)
	}
}

// answer does what the request asks for.
func (w *worker) answer(n int) {
	switch h := w.header(); h.Opcode {
	case fuseForget, fuseBatchForget: // nothing is remembered, and no answer expected
		return
	case fuseInterrupt:
		// Reads go on to their end. Once told so, the kernel asks no more.
		w.answered(w.fail(h.Unique, unix.ENOSYS))
	case fuseRead:
		if n < readBytes {
			w.answered(w.fail(h.Unique, unix.EINVAL))
			return
		}
		if w.also != nil {
			w.also.hand()
		}
		begin := time.Now()
		w.answered(w.read(w.readIn()))
		w.reading.add(time.Since(begin))
	default:
		n, status := w.protocol.HandleRequest([][]byte{w.in[:n]}, [][]byte{w.out})
		if !status.Ok() {
			w.answered(w.fail(h.Unique, unix.Errno(status)))
		} else if n > 0 {
			w.answered(w.reply(n))
		}
	}
}

// read answers READ.
func (w *worker) read(in *fuse.ReadIn) error {
	n, errno := w.tree.read(in.NodeId, w.out[replyBytes:][:min(in.Size, fusemount.MaxRead)], int64(in.Offset))
	if errno != 0 {
		return w.fail(in.Unique, errno)
	}
	*w.outHeader() = fuse.OutHeader{Length: uint32(replyBytes + n), Unique: in.Unique}
	return w.reply(replyBytes + n)
}

// store puts a piece into the kernel's cache.
func (c *conn) store(p piece, data []byte) error {
	head := storeOut{
		OutHeader: fuse.OutHeader{Status: notifyStore, Length: uint32(unsafe.Sizeof(storeOut{})) + uint32(len(data))},
		nodeID:    uint64(p.node) + 1, offset: uint64(p.off), size: uint32(len(data)),
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head))
	return uninterrupted(func() (int, error) { return unix.Writev(c.fd, [][]byte{b, data}) })
}

// storeOut is a fuse_out_header and a fuse_notify_store_out (linux/fuse.h).
type storeOut struct {
	fuse.OutHeader
	nodeID, offset uint64
	size, _        uint32
}

func (w *worker) outHeader() *fuse.OutHeader { return (*fuse.OutHeader)(unsafe.Pointer(&w.out[0])) }

func (w *worker) fail(unique uint64, errno unix.Errno) error {
	*w.outHeader() = fuse.OutHeader{Length: uint32(replyBytes), Status: -int32(errno), Unique: unique}
	return w.reply(replyBytes)
}

func (w *worker) reply(n int) error {
	return uninterrupted(func() (int, error) { return unix.Write(w.fd, w.out[:n]) })
}

func uninterrupted(write func() (int, error)) error {
	for {
		if _, err := write(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// answered notes an answer that the kernel did not want. It has no use for one
// to a request of which it knows nothing any more (ENOENT), nor after the end.
func (w *worker) answered(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		w.log.Warn("a FUSE request could not be answered", "operation", w.header().Opcode, "error", err)
	}
}

// average is a running mean of durations, in which the latest counts for an eighth.
type average struct{ nanoseconds atomic.Int64 }

func (a *average) add(d time.Duration) {
	old := a.nanoseconds.Load()
	a.nanoseconds.Store(old + (int64(d)-old)/8) // that two may add at once does no harm
}

func (a *average) above(d time.Duration) bool { return time.Duration(a.nanoseconds.Load()) > d }
