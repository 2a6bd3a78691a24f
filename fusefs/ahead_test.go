package fusefs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// farTree is a tree of files on storage that takes its time: byte i is that of a
// madeTree. It counts.
type farTree struct {
	size    int64
	files   int
	takes   time.Duration
	badFrom int64 // nothing from here on can be read; 0 means all can
	blank   bool  // all is zeros, which takes no time

	now, most  atomic.Int64 // reads at once
	reads, sum atomic.Int64 // and bytes
}

func (f *farTree) Len() int                             { return f.files + 1 }
func (f *farTree) Readlink(uint32) string               { return "" }
func (f *farTree) Dirents(uint32) []volume.Dirent       { return nil }
func (f *farTree) Lookup(uint32, string) (uint32, bool) { return 0, false }
func (f *farTree) Attr(uint32) volume.Attr {
	return volume.Attr{Type: volume.File, Size: f.size, Nlink: 1}
}
func (f *farTree) ReadAt(_ uint32, p []byte, off int64) (int, error) {
	now := f.now.Add(1)
	defer f.now.Add(-1)
	for most := f.most.Load(); now > most && !f.most.CompareAndSwap(most, now); most = f.most.Load() {
	}
	f.reads.Add(1)
	time.Sleep(f.takes) // the storage
	n := int(min(int64(len(p)), max(0, f.size-off)))
	if f.badFrom > 0 && off+int64(n) > f.badFrom {
		return 0, volume.ErrBlock
	}
	f.sum.Add(int64(n))
	if !f.blank {
		made(p[:n], off)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readPiece reads as a worker does and checks what comes.
func readPiece(t *testing.T, a *ahead, node uint32, off, n int64) error {
	t.Helper()
	f := a.tree.(*farTree)
	buf, want := make([]byte, n), make([]byte, n)
	got, e, err := a.read(node, buf, off)
	if err != nil {
		return err
	}
	if want = want[:min(n, max(0, f.size-off))]; !f.blank {
		made(want, off)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("file %d at %d: %d bytes that are not the file's %d", node, off, len(got), len(want))
	}
	if e != nil {
		a.release(e)
	}
	return nil
}

const piece = 128 << 10 // what the kernel asks for

// idle checks that nothing but streams uses extents any more.
func idle(t *testing.T, a *ahead) {
	t.Helper()
	a.close()
	held := 0
	for _, s := range a.streams {
		held += len(s.extents)
		for _, e := range s.extents {
			if e.users != 1 {
				t.Errorf("an extent at %d has %d users", e.off, e.users)
			}
		}
	}
	if held != a.extents {
		t.Errorf("%d extents are counted, the streams hold %d", a.extents, held)
	}
}

// TestAheadOfSlowStorage: who reads one piece after the other has many read at
// once, and nothing twice.
func TestAheadOfSlowStorage(t *testing.T) {
	t.Parallel()
	f := &farTree{files: 1, size: 32<<20 + 5, takes: 5 * time.Millisecond}
	a := newAhead(f)
	for off := int64(0); off < f.size; off += piece {
		if err := readPiece(t, a, 1, off, piece); err != nil {
			t.Fatal(err)
		}
	}
	idle(t, a)
	if most := f.most.Load(); most < farAhead/2 {
		t.Errorf("at most %d reads at once", most)
	}
	if sum := f.sum.Load(); sum > f.size+4*extentSize {
		t.Errorf("%d bytes were read of %d", sum, f.size)
	}
}

// TestAheadOfFastStorage reads little more than is asked for.
func TestAheadOfFastStorage(t *testing.T) {
	t.Parallel()
	f := &farTree{files: 1, size: 64 << 20, blank: true}
	a := newAhead(f)
	for off := int64(0); off < 8<<20; off += piece {
		if err := readPiece(t, a, 1, off, piece); err != nil {
			t.Fatal(err)
		}
	}
	idle(t, a)
	if sum := f.sum.Load(); sum > 8<<20+(nearAhead+2)*extentSize {
		t.Errorf("%d bytes were read for %d", sum, 8<<20)
	}
}

// TestNothingAhead: random reads, small ones and small files are read as they
// are asked for.
func TestNothingAhead(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size, n int64
		next    func(off int64) int64
	}{
		"random":      {64 << 20, 4096, func(int64) int64 { return rand.Int64N(16<<10) * 4096 }},
		"random, big": {64 << 20, piece, func(int64) int64 { return rand.Int64N(16) * 4 << 20 }},
		"backwards":   {64 << 20, piece, func(off int64) int64 { return off + 62<<20 - 2<<20 }},
		"small steps": {64 << 20, 4096, func(off int64) int64 { return off + 4096 }},
		"small files": {sequential, piece, func(off int64) int64 { return (off + piece) % sequential }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &farTree{files: 1, size: test.size, blank: true}
			a := newAhead(f)
			asked := int64(0)
			for off := int64(0); f.reads.Load() < 200; off = test.next(off) % test.size {
				if err := readPiece(t, a, 1, off, test.n); err != nil {
					t.Fatal(err)
				}
				asked += test.n
			}
			idle(t, a)
			if sum := f.sum.Load(); sum != asked {
				t.Errorf("%d bytes were read, %d were asked for", sum, asked)
			}
		})
	}
}

// TestAheadManyReaders: requests overtake each other, files are more than are
// remembered, and the memory is bounded.
func TestAheadManyReaders(t *testing.T) {
	t.Parallel()
	f := &farTree{files: 2 * maxStreams, size: 1<<20 + 777, takes: 300 * time.Microsecond}
	a := newAhead(f)
	var wg sync.WaitGroup
	for node := range uint32(f.files) {
		wg.Go(func() {
			var workers sync.WaitGroup // as two do that share a file's requests
			offs := make(chan int64)
			for range 2 {
				workers.Go(func() {
					for off := range offs {
						if err := readPiece(t, a, node+1, off, piece); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for off := int64(0); off < f.size; off += piece {
				offs <- off
			}
			close(offs)
			workers.Wait()
		})
	}
	wg.Wait()
	idle(t, a)
	if a.extents > maxExtents || len(a.streams) > maxStreams {
		t.Errorf("%d extents of %d streams are kept", a.extents, len(a.streams))
	}
}

// TestAheadErrors: what cannot be read is told to who reads it, and to nobody
// before; what lies before it in the same extent is read.
func TestAheadErrors(t *testing.T) {
	t.Parallel()
	f := &farTree{files: 1, size: 16 << 20, badFrom: 4<<20 + piece + 1}
	a := newAhead(f)
	for off := int64(0); off < f.size; off += piece {
		err := readPiece(t, a, 1, off, piece)
		if bad := off+piece > f.badFrom; bad != errors.Is(err, volume.ErrBlock) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	idle(t, a)
}

// TestAheadAfterTheEnd: what is under way when the mount goes is waited for.
func TestAheadAfterTheEnd(t *testing.T) {
	t.Parallel()
	f := &farTree{files: 1, size: 64 << 20, takes: 20 * time.Millisecond}
	a := newAhead(f)
	for off := int64(0); off < 1<<20; off += piece {
		if err := readPiece(t, a, 1, off, piece); err != nil {
			t.Fatal(err)
		}
	}
	idle(t, a)
	if now := f.now.Load(); now != 0 {
		t.Errorf("%d reads are under way", now)
	}
	before := f.reads.Load()
	if err := readPiece(t, a, 1, 60<<20, piece); err != nil || f.reads.Load() != before+1 {
		t.Errorf("%v, %d reads", err, f.reads.Load()-before)
	}
}
