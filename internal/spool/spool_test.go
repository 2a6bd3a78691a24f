package spool

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/sealbatch/sealbatch/internal/fault"
)

func newSpool(t *testing.T) *Spool {
	t.Helper()
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// random returns n bytes, the same ones for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	rand.NewChaCha8(key).Read(b)
	return b
}

func fill(t *testing.T, s *Spool, b []byte) *Blob {
	t.Helper()
	w := s.Create()
	if n, err := w.Write(b); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
	blob, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// TestBlobs: what several writers put in side by side, in pieces of any size, comes out again as often as it is read.
func TestBlobs(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	sizes := []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 3*BlockSize + 17, 10 * BlockSize}
	var all sync.WaitGroup
	for i, size := range sizes {
		all.Go(func() {
			want := random(uint64(i), size)
			w := s.Create()
			if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(want)},
				make([]byte, 1000+997*i)); err != nil {
				t.Error(err)
			}
			b, err := w.Finish()
			if err != nil || b.Size() != int64(size) {
				t.Errorf("%d bytes: %v", size, err)
				return
			}
			for range 2 {
				if err := iotest.TestReader(b.Reader(), want); err != nil {
					t.Errorf("%d bytes: %v", size, err)
				}
			}
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 50 {
				off, n := r.IntN(size+1), r.IntN(3*BlockSize)
				got := make([]byte, n)
				n, err := b.ReadAt(got, int64(off))
				if end := min(off+len(got), size); !bytes.Equal(got[:n], want[off:end]) ||
					(n < len(got)) != errors.Is(err, io.EOF) {
					t.Errorf("%d bytes at %d of %d: %d, %v", len(got), off, size, n, err)
				}
			}
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("a finished blob grows")
			}
		})
	}
	all.Wait()
}

// TestNoSlotServesTwice: each slot is one block's, of writers that are left unfinished, too.
func TestNoSlotServesTwice(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			w := s.Create()
			w.Write(random(1, 5*BlockSize+i))
			if i%2 == 0 {
				if _, err := w.Finish(); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, slot := range w.slots {
				if seen[slot] {
					t.Errorf("slot %d was dealt twice", slot)
				}
				seen[slot] = true
			}
		})
	}
	all.Wait()
	if len(seen) < 8*5 || s.next.Load() != uint64(len(seen)) {
		t.Errorf("%d slots of %d blocks", s.next.Load(), len(seen))
	}
}

// TestFileIsNamelessAndSealed: nothing in the directory, no plaintext in the file, and another key in every spool.
func TestFileIsNamelessAndSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := bytes.Repeat([]byte("genome of a patient "), 20000)
	var files [][]byte
	for range 2 {
		s, err := New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		fill(t, s, plain)
		raw := make([]byte, len(plain))
		if _, err := s.f.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		files = append(files, raw)
		if bytes.Contains(raw, plain[:20]) {
			t.Error("the file holds plaintext")
		}
	}
	if bytes.Equal(files[0][:64], files[1][:64]) {
		t.Error("two spools have one key")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in the directory: %v, %v", left, err)
	}
	f, err := unlinked(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("without O_TMPFILE there stays %v, %v", left, err)
	}
}

// TestAlteredFileDoesNotOpen: a bit flipped, two blocks exchanged, a block of another blob in its place, a file cut short.
func TestAlteredFileDoesNotOpen(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]func(f *os.File, slots [3][]byte){
		"flipped":   func(f *os.File, s [3][]byte) { s[1][7] ^= 1; f.WriteAt(s[1], slotSize) },
		"exchanged": func(f *os.File, s [3][]byte) { f.WriteAt(s[0], slotSize); f.WriteAt(s[1], 0) },
		"another's": func(f *os.File, s [3][]byte) { f.WriteAt(s[2], 0) },
		"cut":       func(f *os.File, _ [3][]byte) { f.Truncate(slotSize + 5) },
		"nothing":   nil,
	} {
		s := newSpool(t)
		b := fill(t, s, random(1, 2*BlockSize))
		fill(t, s, random(2, BlockSize))
		var slots [3][]byte
		for i := range slots {
			slots[i] = make([]byte, slotSize)
			if _, err := s.f.ReadAt(slots[i], int64(i)*slotSize); err != nil {
				t.Fatal(err)
			}
		}
		if alter != nil {
			alter(s.f, slots)
		}
		_, err := io.ReadAll(b.Reader())
		if errors.Is(err, ErrDamaged) != (alter != nil) || (alter != nil && fault.ClassOf(err) != fault.Integrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFull: a file system without room is said, with what to do, before and while writing.
func TestFull(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	if err := s.Room(1 << 20); err != nil {
		t.Error(err)
	}
	if err := s.Room(1 << 60); !errors.Is(err, ErrFull) || fault.Hint(err) == "" {
		t.Errorf("an exbibyte: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.f.Close()
	s.f = full
	w := s.Create()
	if n, err := w.Write(random(1, 2*BlockSize)); n != 0 || !errors.Is(err, ErrFull) ||
		!errors.Is(err, syscall.ENOSPC) || fault.Hint(err) == "" {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := w.Finish(); !errors.Is(err, ErrFull) {
		t.Errorf("finished: %v", err)
	}
	if _, err := New(t.TempDir() + "/nowhere"); !errors.Is(err, os.ErrNotExist) || fault.Hint(err) == "" {
		t.Errorf("no directory: %v", err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s := newSpool(t)
	b := fill(t, s, []byte("x"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(b.Reader()); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
	w := s.Create()
	w.Write([]byte("x"))
	if _, err := w.Finish(); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
}
