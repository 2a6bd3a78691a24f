package fusefs

import (
	"cmp"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// hander hands to the kernel what it will ask for next: more of a file that is
// read from one end to the other (ahead), and the next of many small files that
// are read in order (nearby). That is done before the read that made it likely is
// answered, while its reader sleeps: two processors then do the work of one after
// the other, and what the kernel holds already costs no request and wakes nobody
// up. Where storage takes its time, much is read at once.
//
// The kernel lets who hands something over wait for pages that are being read.
// What is handed over lies behind what is read, in the order of files and
// offsets, so that no two wait for each other; others have to be left to answer.
type hander struct {
	tree    Tree
	store   func(p piece, data []byte) error // into the kernel's cache; it refuses files that it does not know
	ahead   ahead
	nearby  nearby
	buffers sync.Pool              // of *[pieceSize]byte
	took    average                // reading a piece
	handing atomic.Int32           // batches, from being planned to their end
	open    atomic.Pointer[handed] // where others can help
}

const (
	pieceSize = 256 << 10
	// maxHanding is how many workers hand something over at a time.
	maxHanding = 8
	// slowReaders read at once for each where storage takes its time, which is
	// slowPiece for a piece.
	slowReaders = 16
	slowPiece   = time.Millisecond
)

// piece is a part of a file, or a whole one.
type piece struct {
	node uint32
	off  int64
	n    int
}

// handed is a number of pieces on their way to the kernel.
type handed struct {
	*hander
	pieces []piece
	stop   func(first int) // is told which piece was the first that could not be read, or is not known to the kernel
	taken  atomic.Int32
	left   atomic.Int32
	failed atomic.Int32  // the first that was not handed over
	done   chan struct{} // closed when none is left
}

func newHander(t Tree) *hander {
	h := &hander{tree: t}
	h.ahead.tree, h.nearby.tree = t, t
	h.buffers.New = func() any { return new([pieceSize]byte) }
	return h
}

// follow takes note of a read, and returns what has to be handed over, if anything,
// before it is answered.
func (h *hander) follow(node uint32, off int64, n int) *handed {
	if h.handing.Add(1) > maxHanding {
		h.handing.Add(-1)
		return nil
	}
	pieces, stop := h.nearby.follow(node, off)
	if pieces == nil {
		pieces, stop = h.ahead.follow(node, off, n)
	}
	if pieces == nil {
		h.handing.Add(-1)
		return nil
	}
	b := &handed{hander: h, pieces: pieces, stop: stop, done: make(chan struct{})}
	b.left.Store(int32(len(pieces)))
	b.failed.Store(int32(len(pieces)))
	return b
}

// hand hands the pieces over.
func (b *handed) hand() {
	defer b.handing.Add(-1)
	if b.took.above(slowPiece) {
		for range min(slowReaders, len(b.pieces)) - 1 {
			go b.all()
		}
	} else {
		b.open.Store(b)
	}
	b.all()
	b.open.CompareAndSwap(b, nil)
	<-b.done
	if n := int(b.failed.Load()); n < len(b.pieces) {
		b.stop(n)
	}
}

func (b *handed) all() {
	for b.next() {
	}
}

// toHelp is what others can help with (next); nil if there is nothing.
func (h *hander) toHelp() *handed {
	if b := h.open.Load(); b != nil && int(b.taken.Load()) < len(b.pieces) {
		return b
	}
	return nil
}

// next hands over a piece that nobody has taken; false if there is none.
func (b *handed) next() bool {
	i := b.taken.Add(1) - 1
	if int(i) >= len(b.pieces) {
		return false
	}
	if i < b.failed.Load() && b.one(b.pieces[i]) != nil {
		for first := b.failed.Load(); i < first && !b.failed.CompareAndSwap(first, i); first = b.failed.Load() {
		}
	}
	if b.left.Add(-1) == 0 {
		close(b.done)
	}
	return true
}

// one hands over a piece. If it cannot be read, whoever asks for it is told why.
func (b *handed) one(p piece) error {
	buf := b.buffers.Get().(*[pieceSize]byte)
	defer b.buffers.Put(buf)
	begin := time.Now()
	if n, err := b.tree.ReadAt(p.node, buf[:p.n], p.off); n < p.n {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	b.took.add(time.Since(begin))
	return b.store(p, buf[:p.n])
}
