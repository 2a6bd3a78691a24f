package fusefs

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/volume"
)

// taking is a kernel that takes every piece, but those of some files.
type taking struct {
	mu     sync.Mutex
	pieces []piece
	err    map[uint32]error
}

func (k *taking) store(p piece, data []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.err[p.node]; err != nil {
		return err
	}
	if err := isMade(data, p.off); err != nil || len(data) != p.n || p.n == 0 {
		return fmt.Errorf("node %d: %d bytes: %w", p.node, len(data), err)
	}
	k.pieces = append(k.pieces, p)
	return nil
}

func newTaking(tree Tree) (*prefetcher, *taking) {
	f, k := newPrefetcher(tree), &taking{err: map[uint32]error{}}
	f.store = k.store
	return f, k
}

// read reads a small file, and returns what was prefetched with it.
func (k *taking) read(f *prefetcher, node uint32) (nodes []uint32) {
	before := len(k.pieces)
	if b := f.observe(node, 0, 5000); b != nil {
		b.run()
	}
	for _, p := range k.pieces[before:] {
		nodes = append(nodes, p.node)
	}
	slices.Sort(nodes)
	return nodes
}

// count returns the nodes from first on, n of them.
func count(first, n uint32) (nodes []uint32) {
	for i := range n {
		nodes = append(nodes, first+i)
	}
	return nodes
}

// TestPrefetchUnreadable: what cannot be read is not stored, nor what follows it.
func TestPrefetchUnreadable(t *testing.T) {
	t.Parallel()
	tree := &farTree{size: 64 << 20, files: 1, badFrom: 600 << 10}
	f, k := newTaking(tree)
	if f.observe(1, 0, asked) != nil {
		t.Fatal("prefetched after one read")
	}
	f.observe(1, asked, asked).run()
	if len(k.pieces) != 1 || k.pieces[0] != (piece{1, 256 << 10, 256 << 10}) {
		t.Errorf("stored: %+v", k.pieces)
	}
	if s := f.ahead.streams[0]; s.next != 512<<10 {
		t.Errorf("the stream goes on at %d", s.next)
	}
}

// TestPrefetchFromSlowStorage: many pieces are read at once.
func TestPrefetchFromSlowStorage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tree *farTree
		unit int // of what is read at a time
		read func(f *prefetcher, i int) *batch
	}{
		"small files": {&farTree{size: 5000, files: 100_000}, 5000, func(f *prefetcher, i int) *batch {
			return f.observe(uint32(i), 0, 5000)
		}},
		"a large file": {&farTree{size: 1 << 30, files: 1, blank: true}, asked, func(f *prefetcher, i int) *batch {
			return f.observe(1, int64(i)*asked, asked)
		}},
	} {
		tree := c.tree
		tree.takes = 10 * time.Millisecond
		f, k := newTaking(tree)
		if tree.blank {
			f.store = func(piece, []byte) error { return nil }
		}
		for i, batches := 1, 0; batches < 12; i++ {
			if b := c.read(f, i); b != nil {
				b.run()
				batches++
				for _, p := range b.pieces { // the kernel has them
					i += p.n / c.unit
				}
			}
		}
		if most := tree.most.Load(); most != slowReaders {
			t.Errorf("%s: %d reads at once", name, most)
		}
		seen := map[piece]bool{}
		for _, p := range k.pieces {
			if seen[p] {
				t.Errorf("%s: %+v was stored twice", name, p)
			}
			seen[p] = true
		}
	}
}

// TestHelp: others help to prefetch, and each piece is stored once.
func TestHelp(t *testing.T) {
	t.Parallel()
	f, k := newTaking(&farTree{size: 5000, files: 100_000})
	// The first piece waits until another was helped with: on a busy machine, readers
	// would else be done before a helper runs.
	var begun atomic.Bool
	helpedOnce, once := make(chan struct{}), sync.Once{}
	f.store = func(p piece, data []byte) error {
		if begun.CompareAndSwap(false, true) {
			<-helpedOnce
		}
		return k.store(p, data)
	}
	var planned, helped atomic.Int32
	var readers, helpers sync.WaitGroup
	end := make(chan struct{})
	for range 4 {
		helpers.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					if b := f.helpable(); b != nil && b.step() {
						helped.Add(1)
						once.Do(func() { close(helpedOnce) })
					}
				}
			}
		})
	}
	for i := range uint32(20) {
		readers.Go(func() {
			for n := 1000*i + 1; n < 1000*i+900; n++ {
				b := f.observe(n, 0, 5000)
				if b == nil {
					continue
				}
				b.run()
				planned.Add(int32(len(b.pieces)))
				n += uint32(len(b.pieces))
			}
		})
	}
	readers.Wait()
	close(end)
	helpers.Wait()
	if f.running.Load() != 0 || helped.Load() == 0 || f.open.Load() != nil {
		t.Errorf("%d batches run at the end, %d pieces were helped with", f.running.Load(), helped.Load())
	}
	seen := map[piece]bool{}
	for _, p := range k.pieces {
		seen[p] = true
	}
	if len(seen) != len(k.pieces) || len(seen) != int(planned.Load()) {
		t.Errorf("%d pieces were stored as %d, of %d", len(seen), len(k.pieces), planned.Load())
	}
}

// TestBatchesAreBounded: when enough run, others answer only.
func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	f, k := newTaking(&farTree{size: 5000, files: 100})
	_ = k.read(f, 1)
	f.running.Store(maxBatches)
	if f.observe(2, 0, 5000) != nil {
		t.Error("one more runs")
	}
	f.running.Store(maxBatches - 1)
	if f.observe(2, 0, 5000) == nil {
		t.Error("none runs")
	}
}

// TestHeldUp: where prefetching has to wait for a page that somebody else reads, others are answered, and
// it goes on.
func TestHeldUp(t *testing.T) {
	t.Parallel()
	tree := &held{farTree: farTree{size: 16 << 20, files: 2}, reached: make(chan struct{}), release: make(chan struct{})}
	at := t.TempDir()
	s, err := Mount(at, tree, MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	read := func(name string, off, n int64) error {
		fd, err := unix.Open(at+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return readMade(fd, make([]byte, n), off, tree.size)
	}
	ends := make(chan error, 2)
	go func() { ends <- read("1", heldAt, 4096) }()
	<-tree.reached
	go func() { // the window beyond 256 KiB reaches what is held
		var err error
		for off := int64(0); off < 8<<20 && err == nil; off += asked {
			err = read("1", off, asked)
		}
		ends <- err
	}()
	for off := int64(0); off < 16<<20; off += 1 << 20 {
		if err := read("2", off, 1<<20); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-ends:
		t.Errorf("what is held was read: %v", err)
	default:
	}
	close(tree.release)
	for range 2 {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
}

// held is a tree whose file 1 is not read at one place, by whoever comes first, until that is released.
type held struct {
	farTree
	first            atomic.Bool
	reached, release chan struct{}
}

const heldAt = 600 << 10

func (h *held) Attr(node uint32) volume.Attr {
	if node == 0 {
		return volume.Attr{Type: volume.Dir, Mode: 0o755, Nlink: 2}
	}
	a := h.farTree.Attr(node)
	a.Mode = 0o644
	return a
}

func (h *held) Lookup(_ uint32, name string) (uint32, bool) {
	return map[string]uint32{"1": 1, "2": 2}[name], name == "1" || name == "2"
}

func (h *held) ReadAt(node uint32, p []byte, off int64) (int, error) {
	if node == 1 && off <= heldAt && heldAt < off+int64(len(p)) && h.first.CompareAndSwap(false, true) {
		close(h.reached)
		<-h.release
	}
	return h.farTree.ReadAt(node, p, off)
}
