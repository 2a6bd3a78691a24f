package fusefs

import (
	"cmp"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// prefetcher puts into the kernel's cache what will be asked for next: more of a
// file that is read from one end to the other (ahead), and the next of many small
// files that are read in order (nearby). That is done before the read that made it
// likely is answered, while its reader sleeps: two processors then do the work of
// one after the other, and what the kernel holds already costs no request and wakes
// nobody up. Where storage takes its time, much is read at once.
//
// The kernel lets who stores a page wait while somebody reads that page. What is
// prefetched lies behind what is read, in the order of files and offsets, so that no
// two wait for each other; other workers have to be left to answer.
type prefetcher struct {
	tree    Tree
	store   func(p piece, data []byte) error // into the kernel's cache; it refuses files that it does not know
	ahead   ahead
	nearby  nearby
	buffers sync.Pool             // of *[pieceSize]byte
	took    average               // reading a piece
	running atomic.Int32          // batches, from being planned to their end
	open    atomic.Pointer[batch] // where others can help
}

const (
	pieceSize = 256 << 10
	// maxBatches is how many workers run a batch at a time.
	maxBatches = 8
	// slowReaders read at once for each batch where storage takes its time, which
	// is slowPiece for a piece.
	slowReaders = 16
	slowPiece   = time.Millisecond
)

// piece is a part of a file, or a whole one.
type piece struct {
	node uint32
	off  int64
	n    int
}

// batch is a number of pieces on their way to the kernel.
type batch struct {
	*prefetcher
	pieces []piece
	stop   func(first int) // hears which piece was the first that could not be read, or is not known to the kernel
	taken  atomic.Int32
	left   atomic.Int32
	failed atomic.Int32  // the first piece that was not stored
	done   chan struct{} // closed when none is left
}

func newPrefetcher(t Tree) *prefetcher {
	f := &prefetcher{tree: t}
	f.ahead.tree, f.nearby.tree = t, t
	f.buffers.New = func() any { return new([pieceSize]byte) }
	return f
}

// observe takes note of a read, and returns the batch to run before it is answered;
// nil if there is none.
func (f *prefetcher) observe(node uint32, off int64, n int) *batch {
	if f.running.Add(1) > maxBatches {
		f.running.Add(-1)
		return nil
	}
	pieces, stop := f.nearby.observe(node, off)
	if pieces == nil {
		pieces, stop = f.ahead.observe(node, off, n)
	}
	if pieces == nil {
		f.running.Add(-1)
		return nil
	}
	b := &batch{prefetcher: f, pieces: pieces, stop: stop, done: make(chan struct{})}
	b.left.Store(int32(len(pieces)))
	b.failed.Store(int32(len(pieces)))
	return b
}

// helpable returns the batch that others can help with (step); nil if there is none.
func (f *prefetcher) helpable() *batch {
	if b := f.open.Load(); b != nil && int(b.taken.Load()) < len(b.pieces) {
		return b
	}
	return nil
}

// run reads and stores the pieces, and returns when all are done.
func (b *batch) run() {
	defer b.running.Add(-1)
	if b.took.above(slowPiece) {
		for range min(slowReaders, len(b.pieces)) - 1 {
			go b.steps()
		}
	} else {
		b.open.Store(b)
	}
	b.steps()
	b.open.CompareAndSwap(b, nil)
	<-b.done
	if n := int(b.failed.Load()); n < len(b.pieces) {
		b.stop(n)
	}
}

func (b *batch) steps() {
	for b.step() {
	}
}

// step prefetches a piece that nobody has taken; false if there is none.
func (b *batch) step() bool {
	i := b.taken.Add(1) - 1
	if int(i) >= len(b.pieces) {
		return false
	}
	if i < b.failed.Load() && b.prefetch(b.pieces[i]) != nil {
		for first := b.failed.Load(); i < first && !b.failed.CompareAndSwap(first, i); first = b.failed.Load() {
		}
	}
	if b.left.Add(-1) == 0 {
		close(b.done)
	}
	return true
}

// prefetch reads and stores a piece. If it cannot be read, whoever asks for it is
// told why.
func (f *prefetcher) prefetch(p piece) error {
	buf := f.buffers.Get().(*[pieceSize]byte)
	defer f.buffers.Put(buf)
	begin := time.Now()
	if n, err := f.tree.ReadAt(p.node, buf[:p.n], p.off); n < p.n {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	f.took.add(time.Since(begin))
	return f.store(p, buf[:p.n])
}
