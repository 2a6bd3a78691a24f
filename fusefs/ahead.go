package fusefs

import (
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"time"
)

// ahead reads files ahead that somebody reads from one end to the other. The
// kernel asks for 128 KiB at a time, and for two such pieces at most; that is too
// little for storage that takes milliseconds to answer, and it leaves decryption
// to one core.
type ahead struct {
	tree     Tree
	reads    sync.WaitGroup
	took     average // reading an extent
	buffers  sync.Pool
	mu       sync.Mutex
	streams  []*stream // the one read last comes first
	extents  int       // of all streams
	released bool
}

const (
	extentSize = 256 << 10
	// nearAhead is how many extents are read ahead where storage is fast: more
	// would have left the processor's cache before they are asked for.
	nearAhead = 2
	farAhead  = 32
	// maxExtents bounds the memory: 32 MiB.
	maxExtents = 128
	maxStreams = 64
	// sequential is how much has to be read in a row before anything is read
	// ahead, and largeRead how much at a time.
	sequential = 256 << 10
	largeRead  = 64 << 10
	// disorder is by how much requests may overtake each other: several workers
	// take them.
	disorder = 1 << 20
)

// stream is one file that is being read.
type stream struct {
	node    uint32
	next    int64 // the end of what was asked for
	run     int64 // how much of that in a row
	planned int64 // the end of what is read ahead
	extents []*extent
}

// extent is a piece of a file that is read ahead, or was.
type extent struct {
	off   int64
	buf   *[extentSize]byte
	n     int // of them that were read
	err   error
	ready chan struct{} // closed when n and err are known
	users int
}

func newAhead(t Tree) *ahead {
	a := &ahead{tree: t}
	a.buffers.New = func() any { return new([extentSize]byte) }
	return a
}

// read gives what lies at off, as ReadAt into buf does. The bytes are buf's, or
// lie in an extent, which then has to be released after use.
func (a *ahead) read(node uint32, buf []byte, off int64) ([]byte, *extent, error) {
	if e := a.expect(node, off, int64(len(buf))); e != nil {
		<-e.ready
		if from := int(off - e.off); e.err == nil && from < e.n {
			return e.buf[from:min(e.n, from+len(buf))], e, nil
		}
		a.release(e) // whoever really reads there is told what is wrong
	}
	n, err := a.tree.ReadAt(node, buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], nil, err
}

// release ends the use of an extent.
func (a *ahead) release(e *extent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(e)
}

func (a *ahead) drop(e *extent) {
	if e.users--; e.users == 0 {
		a.extents--
		a.buffers.Put(e.buf)
	}
}

// close waits for what is under way. Nothing is read ahead afterwards.
func (a *ahead) close() {
	a.mu.Lock()
	a.released = true
	a.mu.Unlock()
	a.reads.Wait()
}

// expect takes note of a read and has read ahead what will come next. It returns
// the extent in which all that is asked for lies, if there is one.
func (a *ahead) expect(node uint32, off, n int64) *extent {
	size := a.tree.Attr(node).Size
	if size < 2*sequential {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stream(node)
	if off < s.next-disorder || off > s.next+disorder || n < largeRead && off+n < size {
		a.forget(s, everything)
		s.run, s.planned = 0, 0
		s.next = off
	}
	end := min(off+n, size)
	s.run += max(0, end-s.next)
	s.next = max(s.next, end)
	var found *extent
	for _, e := range s.extents {
		if off >= e.off && end <= e.off+extentSize {
			found = e
			e.users++
		}
	}
	a.forget(s, s.next-disorder)
	if s.run >= sequential {
		a.plan(s, size)
	}
	return found
}

// stream returns a file's stream.
func (a *ahead) stream(node uint32) *stream {
	i := slices.IndexFunc(a.streams, func(s *stream) bool { return s.node == node })
	if i < 0 {
		if i = len(a.streams); i < maxStreams {
			a.streams = append(a.streams, nil)
		} else {
			i--
			a.forget(a.streams[i], everything)
		}
		a.streams[i] = &stream{node: node}
	}
	s := a.streams[i]
	copy(a.streams[1:i+1], a.streams[:i])
	a.streams[0] = s
	return s
}

// everything is a place beyond all.
const everything = math.MaxInt64

// forget lets go of extents that end at or before a place.
func (a *ahead) forget(s *stream, before int64) {
	s.extents = slices.DeleteFunc(s.extents, func(e *extent) bool {
		past := e.off+extentSize <= before
		if past {
			a.drop(e)
		}
		return past
	})
}

// plan has the next extents read.
func (a *ahead) plan(s *stream, size int64) {
	window := int64(nearAhead * extentSize)
	if a.took.above(slowRead) {
		window = farAhead * extentSize
	}
	s.planned = max(s.planned, s.next/extentSize*extentSize)
	for s.planned < min(s.next+window, size) && a.room(s) && !a.released {
		e := &extent{off: s.planned, buf: a.buffers.Get().(*[extentSize]byte), ready: make(chan struct{}), users: 2}
		s.planned += extentSize
		s.extents = append(s.extents, e)
		a.extents++
		a.reads.Go(func() { a.fetch(s.node, e) })
	}
}

// room makes sure of memory for one more extent, at the expense of streams that
// were not read for longest.
func (a *ahead) room(s *stream) bool {
	for i := len(a.streams) - 1; a.extents >= maxExtents && a.streams[i] != s; i-- {
		a.forget(a.streams[i], everything)
	}
	return a.extents < maxExtents
}

func (a *ahead) fetch(node uint32, e *extent) {
	begin := time.Now()
	e.n, e.err = a.tree.ReadAt(node, e.buf[:], e.off)
	if errors.Is(e.err, io.EOF) {
		e.err = nil
	}
	a.took.add(time.Since(begin))
	close(e.ready)
	a.release(e)
}
