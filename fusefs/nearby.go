package fusefs

import (
	"slices"
	"sync"

	"github.com/sealbatch/sealbatch/volume"
)

// nearby follows who reads small files one after the other in the order of the
// tree, as tar, cp -r and cat * do.
type nearby struct {
	tree Tree
	mu   sync.Mutex
	runs recent[run]
}

const (
	// smallFile is the largest that is prefetched: as much as the kernel asks for at once.
	smallFile = 128 << 10
	// A run begins with so many files prefetched, and twice as many each time up to
	// mostFiles or mostBytes.
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
)

// run is small files that were read in order.
type run struct {
	next  uint32 // the node after what was read and prefetched
	files int    // that were prefetched last; if negative, so many are let pass
}

// observe takes note of a read, of a file's beginning, and returns the files to
// prefetch before it is answered. stop is to be called if that ended short of one.
func (b *nearby) observe(node uint32, off int64) (files []piece, stop func(first int)) {
	if off != 0 || !b.small(node) {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, known := b.runs.take(func(r run) bool { return node >= r.next && node-r.next <= maxGap })
	if known {
		r.grow()
	}
	r.next = node + 1
	if r.files > 0 {
		files, r.next = b.plan(r)
	}
	b.runs.put(r, maxRuns)
	return files, func(first int) { b.stop(r.next, files[first].node, first == 0) }
}

// grow sets how many files to prefetch, now that the run has gone on.
func (r *run) grow() {
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

// plan returns the run's next small files, and the node after them.
func (b *nearby) plan(r run) (files []piece, next uint32) {
	next = r.next
	bytes := 0
	for n := r.next; len(files) < r.files && bytes < mostBytes && int(n) < b.tree.Len() && n-next <= maxGap; n++ {
		if b.small(n) {
			p := piece{node: n, n: int(b.tree.Attr(n).Size)}
			files, next = append(files, p), n+1
			bytes += p.n
		}
	}
	return files, next
}

// stop has the run that leads to the node end go on from another one. If nothing
// was stored, it lets some files pass before it is tried again.
func (b *nearby) stop(end, from uint32, nothing bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.runs, func(r run) bool { return r.next == end })
	if i < 0 {
		return
	}
	b.runs[i].next = from
	if nothing {
		b.runs[i].files = -refusedFiles
	}
}
