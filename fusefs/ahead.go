package fusefs

import "sync"

// ahead follows who reads a large file from one end to the other. The kernel asks
// for 128 KiB at a time, and for two such pieces at most; that is too little for
// storage that takes milliseconds to answer, and leaves decryption to one core.
type ahead struct {
	tree    Tree
	mu      sync.Mutex
	streams recent[stream]
}

const (
	// firstAhead is prefetched first, and twice as much each time up to mostAhead.
	firstAhead = 512 << 10
	mostAhead  = 4 << 20
	// maxStreams is how many readers are told apart.
	maxStreams = 64
	// sequential is how much has to be read in a row before anything is
	// prefetched, and largeRead how much at a time: where less is asked for, the
	// kernel has seen no order either.
	sequential = 256 << 10
	largeRead  = 64 << 10
	// disorder is by how much requests may overtake each other: the kernel has two
	// on their way, and several workers take them.
	disorder = 256 << 10
)

// stream is a part of a file that is read in order.
type stream struct {
	node   uint32
	next   int64 // the end of what was read and prefetched
	run    int64 // how much of that in a row
	window int64 // how much was prefetched last
}

// holds reports whether a read at off belongs to the stream.
func (s stream) holds(node uint32, off int64) bool {
	return s.node == node && off >= s.next-s.window-disorder && off <= s.next+disorder
}

// observe takes note of a read and returns what to prefetch before it is answered.
// stop is to be called if that ended short of a piece.
func (a *ahead) observe(node uint32, off int64, n int) (pieces []piece, stop func(first int)) {
	size := a.tree.Attr(node).Size
	end := min(off+int64(n), size)
	if size < firstAhead || n < largeRead && end < size {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, known := a.streams.take(func(s stream) bool { return s.holds(node, off) })
	if !known {
		s = stream{node: node, next: off}
	}
	if end > s.next {
		s.run, s.next = s.run+end-s.next, end
		if s.run >= sequential {
			pieces = s.plan(size)
		}
	}
	a.streams.put(s, maxStreams)
	return pieces, func(first int) { a.stop(pieces, first, s.next) }
}

// plan returns what to prefetch, and has the stream end behind it.
func (s *stream) plan(size int64) (pieces []piece) {
	s.window = min(max(2*s.window, firstAhead), mostAhead)
	for end := min(s.next+s.window, size); s.next < end; {
		n := min(pieceSize-s.next%pieceSize, end-s.next)
		pieces = append(pieces, piece{s.node, s.next, int(n)})
		s.next += n
	}
	return pieces
}

// stop has the stream that leads to the offset end go on where the first piece is
// that was not stored.
func (a *ahead) stop(pieces []piece, first int, end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range a.streams {
		if s.node == pieces[first].node && s.next == end {
			a.streams[i].next = pieces[first].off
		}
	}
}
