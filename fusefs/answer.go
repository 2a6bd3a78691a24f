package fusefs

import (
	"errors"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
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
		if w.batch != nil {
			w.batch.run()
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

// answered logs an answer that the kernel did not want. It has no use for one
// to a request of which it knows nothing any more (ENOENT), nor after the end.
func (w *worker) answered(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		w.log.Warn("a FUSE request could not be answered", "operation", w.header().Opcode, "error", err)
	}
}
