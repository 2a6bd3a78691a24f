package fusefs

import (
	"cmp"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// nearby hands small files to the kernel before they are asked for, when somebody
// reads one after the other in the order of the tree, as tar, cp -r and cat * do.
// A file that the kernel holds already wakes nobody up, which is most of what a
// small file costs; and where storage takes its time, many are read at once.
type nearby struct {
	tree    Tree
	store   func(node uint32, data []byte) error // into the kernel's cache; it refuses files that it does not know
	buffers sync.Pool                            // of *[smallFile]byte
	took    average                              // reading a file
	mu      sync.Mutex
	runs    []run // the one that went on last comes first
	handing int   // workers that do
}

const (
	// smallFile is the largest that is handed over: as much as the kernel asks for at once.
	smallFile = 128 << 10
	// A run begins with so many files handed over, and twice as many each time up
	// to mostFiles or mostBytes.
	firstFiles = 4
	mostFiles  = 64
	mostBytes  = 1 << 20
	// refusedFiles is how many files are read before it is tried again, after the
	// kernel did not know the first one: they are opened by their names, with no
	// directory being listed.
	refusedFiles = 32
	// maxRuns is how many readers are told apart, and maxGap how many nodes, such
	// as directories, may lie between two files of a run.
	maxRuns = 16
	maxGap  = 8
	// slowReaders read at once where storage takes its time.
	slowReaders = 16
	// maxHanding is how many workers hand files over at a time. The kernel lets them
	// wait for pages that are being read: enough others have to be left to answer.
	maxHanding = 8
)

// run is small files that were read in order.
type run struct {
	next  uint32 // the node after what was read and handed over
	files int    // that were handed over last; if negative, so many are let pass
}

func newNearby(t Tree) *nearby {
	b := &nearby{tree: t}
	b.buffers.New = func() any { return new([smallFile]byte) }
	return b
}

// follow takes note that a file is read from its beginning, and returns the nodes
// to hand over, if any, before it is answered.
func (b *nearby) follow(node uint32) []uint32 {
	if !b.small(node) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.runs, func(r run) bool { return node >= r.next && node-r.next <= maxGap })
	var r run
	if i >= 0 {
		r = b.runs[i]
		r.more()
		b.runs = slices.Delete(b.runs, i, i+1)
	}
	r.next = node + 1
	var nodes []uint32
	if r.files > 0 && b.handing < maxHanding {
		nodes, r.next = b.plan(r)
	}
	if nodes != nil {
		b.handing++
	}
	b.runs = slices.Insert(b.runs, 0, r)
	b.runs = b.runs[:min(len(b.runs), maxRuns)]
	return nodes
}

// more says how many files to hand over, now that the run has gone on.
func (r *run) more() {
	if r.files < 0 {
		r.files++
		return
	}
	r.files = min(max(firstFiles, 2*r.files), mostFiles)
}

func (b *nearby) small(node uint32) bool {
	a := b.tree.Attr(node)
	return a.Type == volume.File && a.Size > 0 && a.Size <= smallFile
}

// plan lists the run's next small files, and gives the node after them.
func (b *nearby) plan(r run) (nodes []uint32, next uint32) {
	next = r.next
	var bytes int64
	for n := r.next; len(nodes) < r.files && bytes < mostBytes && int(n) < b.tree.Len() && n-next <= maxGap; n++ {
		if b.small(n) {
			nodes, next = append(nodes, n), n+1
			bytes += b.tree.Attr(n).Size
		}
	}
	return nodes, next
}

// hand hands over what follow returned. Where a file cannot be read or is not known
// to the kernel, the run stops short of it.
func (b *nearby) hand(nodes []uint32) {
	if nodes == nil {
		return
	}
	readers := 1
	if b.took.above(slowRead) {
		readers = slowReaders
	}
	var taken, failed atomic.Int32
	failed.Store(int32(len(nodes)))
	var reading sync.WaitGroup
	for range min(readers, len(nodes)) - 1 {
		reading.Go(func() { b.some(nodes, &taken, &failed) })
	}
	b.some(nodes, &taken, &failed)
	reading.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handing--
	if n := failed.Load(); n < int32(len(nodes)) {
		b.stop(nodes[len(nodes)-1]+1, nodes[n], n == 0)
	}
}

// some hands over the files that no other reader has taken.
func (b *nearby) some(nodes []uint32, taken, failed *atomic.Int32) {
	buf := b.buffers.Get().(*[smallFile]byte)
	defer b.buffers.Put(buf)
	for i := taken.Add(1) - 1; i < failed.Load(); i = taken.Add(1) - 1 {
		if b.one(nodes[i], buf) != nil {
			for first := failed.Load(); i < first && !failed.CompareAndSwap(first, i); first = failed.Load() {
			}
		}
	}
}

// one hands over a file. If it cannot be read, whoever asks for it is told why.
func (b *nearby) one(node uint32, buf *[smallFile]byte) error {
	begin := time.Now()
	data := buf[:b.tree.Attr(node).Size]
	if n, err := b.tree.ReadAt(node, data, 0); n < len(data) {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	b.took.add(time.Since(begin))
	return b.store(node, data)
}

// stop has the run that leads to the node end go on from another one. If nothing
// was taken, it lets some files pass before it is tried again.
func (b *nearby) stop(end, from uint32, nothing bool) {
	i := slices.IndexFunc(b.runs, func(r run) bool { return r.next == end })
	if i < 0 {
		return
	}
	b.runs[i].next = from
	if nothing {
		b.runs[i].files = -refusedFiles
	}
}
