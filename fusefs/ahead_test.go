package fusefs

import (
	"io"
	"math/rand/v2"
	"slices"
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

const asked = 128 << 10 // by the kernel, at a time

// lengths returns the bytes of pieces from an offset on, which have to follow each other.
func lengths(t *testing.T, pieces []piece, off int64) (sum int64) {
	t.Helper()
	for _, p := range pieces {
		if p.off != off+sum || p.n <= 0 || p.off/pieceSize != (p.off+int64(p.n)-1)/pieceSize {
			t.Errorf("%d bytes at %d", p.n, p.off)
		}
		sum += int64(p.n)
	}
	return sum
}

// TestAhead: whoever reads one piece after the other is given more each time, up to the end, and nothing
// twice.
func TestAhead(t *testing.T) {
	t.Parallel()
	for name, disorderly := range map[string]bool{"in order": false, "overtaking": true} {
		a := ahead{tree: &farTree{files: 1, size: 20<<20 + 777}}
		var given []int64
		for off := int64(0); off < 20<<20+777; {
			pieces, _ := a.observe(1, off, asked)
			if disorderly && pieces == nil && off > 0 { // two requests, the second taken first
				_, _ = a.observe(1, off+asked, asked)
				pieces, _ = a.observe(1, off, asked)
			}
			off += asked
			if sum := lengths(t, pieces, off); sum > 0 {
				given = append(given, sum)
				off += sum
			}
		}
		if want := []int64{512 << 10, 1 << 20, 2 << 20, 4 << 20, 4 << 20, 4 << 20}; !slices.Equal(given[:6], want) && !disorderly {
			t.Errorf("%s: given %d", name, given)
		}
		if len(a.streams) != 1 || a.streams[0].next < 20<<20+777 {
			t.Errorf("%s: streams %+v", name, a.streams)
		}
	}
}

// TestNothingAhead: who reads here and there, backwards, in steps, little at a time or small files, gets
// what is asked for.
func TestNothingAhead(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size, n int64
		next    func(off int64) int64
	}{
		"random":      {64 << 20, 4096, func(int64) int64 { return rand.Int64N(16<<10) * 4096 }},
		"random, big": {64 << 20, asked, func(int64) int64 { return rand.Int64N(16) * 4 << 20 }},
		"backwards":   {64 << 20, asked, func(off int64) int64 { return off + 62<<20 }},
		"steps":       {64 << 20, asked, func(off int64) int64 { return off + 512<<10 }},
		"small steps": {64 << 20, 4096, func(off int64) int64 { return off + 4096 }},
		"small files": {firstAhead - 1, asked, func(off int64) int64 { return (off + asked) % sequential }},
	} {
		a := ahead{tree: &farTree{files: 1, size: test.size}}
		off := int64(0)
		for range 500 {
			if pieces, _ := a.observe(1, off, int(test.n)); pieces != nil {
				t.Fatalf("%s: %d bytes from %d on", name, lengths(t, pieces, pieces[0].off), pieces[0].off)
			}
			off = test.next(off) % test.size
		}
		if len(a.streams) > maxStreams {
			t.Errorf("%s: %d streams are remembered", name, len(a.streams))
		}
	}
}

// TestAheadTwice: two who read one file at different places are told apart; what was given already and is
// asked for all the same, is no reason to give more.
func TestAheadTwice(t *testing.T) {
	t.Parallel()
	a := ahead{tree: &farTree{files: 1, size: 1 << 30}}
	next := []int64{0, 500 << 20}
	for range 10 {
		for i, off := range next {
			pieces, _ := a.observe(1, off, asked)
			next[i] = off + asked + lengths(t, pieces, off+asked)
		}
	}
	if next[0] != next[1]-500<<20 || next[0] < 20<<20 {
		t.Errorf("the one came to %d, the other to %d", next[0], next[1]-500<<20)
	}
	for range 10 {
		if pieces, _ := a.observe(1, next[0]-3<<20, asked); pieces != nil {
			t.Fatal("given twice")
		}
	}
	if pieces, _ := a.observe(1, next[0], asked); lengths(t, pieces, next[0]+asked) != mostAhead {
		t.Error("the stream does not go on")
	}
}

// TestAheadStops: the stream goes on where the first piece is that could not be given.
func TestAheadStops(t *testing.T) {
	t.Parallel()
	a := ahead{tree: &farTree{files: 1, size: 1 << 30}}
	_, _ = a.observe(1, 0, asked)
	pieces, stop := a.observe(1, asked, asked)
	if len(pieces) != 2 {
		t.Fatalf("%+v", pieces)
	}
	stop(1)
	if pieces, _ := a.observe(1, pieces[1].off, asked); lengths(t, pieces, 512<<10+asked) != 1<<20 {
		t.Errorf("%+v", pieces)
	}
}
