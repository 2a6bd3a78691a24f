package fusefs

import (
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
// costs. Of its workers, one at a time leads: it takes the next request
// (leadership). While there are none, it helps others to prefetch.
type conn struct {
	fd       int
	protocol *fuse.ProtocolServer
	tree     *treeFS
	log      *slog.Logger
	spin     time.Duration // the leader's

	leadership
	workers sync.WaitGroup
	started atomic.Int32
	reading average // how long reads take
}

// maxWorkers is how many requests are worked on at once. The kernel sends no more of
// its own accord (MaxBackground).
const maxWorkers = 64

// newConn takes a connection over and agrees with the kernel on how to speak. It
// owns fd, also when it fails.
func newConn(fd int, tree *treeFS, logger *slog.Logger) (*conn, error) {
	c := &conn{fd: fd, tree: tree, log: logger, leadership: newLeadership()}
	if runtime.GOMAXPROCS(0) > 1 { // else who should ask meanwhile
		c.spin = leastSpin
	}
	tree.prefetcher.store = c.store
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

// init answers the first request, INIT.
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
	c.lead <- struct{}{}
	c.start()
	var watchdog sync.WaitGroup
	watchdog.Go(c.watchdog)
	c.workers.Wait()
	close(c.done)
	watchdog.Wait()
	unix.Close(c.fd)
}

func (c *conn) start() {
	c.started.Add(1)
	c.workers.Go(func() { c.newWorker().work() })
}
