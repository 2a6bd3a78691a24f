package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
)

func TestReadAt(t *testing.T) {
	t.Parallel()
	var src memSource
	src.entries = []Entry{memDir(0, "")}
	sizes := []int{1, 4095, 4096, 4097, 64 * 4096, 64*4096 + 1, 700_001}
	contents := map[int][]byte{}
	for _, size := range sizes {
		contents[size] = randomBytes(size)
		src.file(0, fmt.Sprint(size), string(contents[size]), 1)
	}
	s, b := sealFixed(t, src, 1)
	r := openBytes(t, b, s.Key)
	var wg sync.WaitGroup
	for i, size := range sizes {
		node, want := uint32(i+1), contents[size]
		wg.Go(func() {
			for range 100 {
				off := rand.IntN(size + 10)
				p := make([]byte, rand.IntN(size+100))
				n, err := r.ReadAt(node, p, int64(off))
				end := min(off+len(p), size)
				if off > size {
					end = off
				}
				short := n < len(p) || off >= size
				if n != end-off || short != errors.Is(err, io.EOF) || (err != nil && !errors.Is(err, io.EOF)) ||
					(n > 0 && !bytes.Equal(p[:n], want[off:end])) {
					t.Errorf("size %d: %d bytes at %d: %d, %v", size, len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
	// The smallest only: it reads byte by byte, and each read decrypts a block.
	if err := iotest.TestReader(r.open(1), contents[sizes[0]]); err != nil {
		t.Error(err)
	}
	if _, err := r.ReadAt(0, make([]byte, 1), 0); !errors.Is(err, ErrPath) {
		t.Errorf("reading a directory: %v", err)
	}
	if _, err := r.ReadAt(1, make([]byte, 1), -1); !errors.Is(err, ErrPath) {
		t.Errorf("reading before the beginning: %v", err)
	}
	if _, err := r.ReadAt(99, make([]byte, 1), 0); !errors.Is(err, ErrPath) {
		t.Errorf("reading nothing: %v", err)
	}
}

// TestReadAtAllocations: page-sized reads must not leave work to the collector.
func TestReadAtAllocations(t *testing.T) {
	var src memSource
	src.entries = []Entry{memDir(0, "")}
	src.file(0, "f", strings.Repeat("x", 1<<20), 1)
	s, b := sealFixed(t, src, 1)
	r := openBytes(t, b, s.Key)
	p := make([]byte, 1<<20)
	got := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, _ = r.ReadAt(1, p, 0)
		}
	}).AllocedBytesPerOp()
	// Under -race, sync.Pool drops every fourth buffer (264 KiB) on purpose.
	if got > 128<<10 {
		t.Errorf("%d bytes are allocated by each read", got)
	}
}

func TestTreeAccess(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	path := filepath.Join(t.TempDir(), "v")
	must(t, os.WriteFile(path, b, 0o600))
	r, err := OpenFile(path, s.Key)
	must(t, err)
	defer r.Close()
	var names []string
	for _, d := range r.Dirents(0) {
		names = append(names, d.Name+" "+d.Type.String())
	}
	if !slices.Equal(names, []string{"a file", "b file", "dir directory"}) {
		t.Errorf("root holds %q", names)
	}
	dir, _ := r.Lookup(0, "dir")
	a, _ := r.Lookup(0, "a")
	hard, ok := r.Lookup(dir, "hard")
	link, _ := r.Lookup(dir, "link")
	if !ok || hard != a || r.Attr(a).Nlink != 2 || r.Readlink(link) != "../a" || r.Readlink(a) != "" {
		t.Errorf("hard %d of %d, %+v, link to %q", hard, a, r.Attr(a), r.Readlink(link))
	}
	if at := r.Attr(a); at.Type != File || at.Mode != 0o644 || !at.Mtime.Equal(fixedTime) || at.Size != 25 {
		t.Errorf("%+v", at)
	}
	if r.Attr(0).Nlink != 3 || r.Attr(dir).Nlink != 3 {
		t.Errorf("links of directories: %d, %d", r.Attr(0).Nlink, r.Attr(dir).Nlink)
	}
	for _, name := range []string{"", "A", "aa", "z", "."} {
		if _, ok := r.Lookup(0, name); ok {
			t.Errorf("found %q", name)
		}
	}
	if r.Entries() != 8 || r.Len() != 8 || r.Size() != s.Size {
		t.Errorf("%d entries, %d nodes", r.Entries(), r.Len())
	}
	if (r.Attr(1000) != Attr{}) || r.Readlink(1000) != "" || len(r.Dirents(1000)) != 0 {
		t.Error("a node that is not there")
	}
}

func TestOpenFileRefuses(t *testing.T) {
	t.Parallel()
	key, err := NewKey()
	must(t, err)
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, bytes.Repeat([]byte("no volume\n"), 1000), 0o600))
	pipe := filepath.Join(dir, "pipe") // without a writer, which opening must not wait for
	must(t, syscall.Mkfifo(pipe, 0o600))
	for path, want := range map[string]error{text: ErrFooter, dir: ErrFooter, pipe: ErrFooter, filepath.Join(dir, "none"): os.ErrNotExist} {
		if _, err := OpenFile(path, key); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// failAt is storage that fails to read at a place.
type failAt struct {
	io.ReaderAt
	from, to int64
	err      error
}

func (f failAt) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

// TestStorageErrors: failing storage is not reported as altered bytes.
func TestStorageErrors(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	broken := errors.New("input/output error")
	for off := int64(0); off < s.Size; off += 256 {
		r, err := Open(failAt{bytes.NewReader(b), off, off + 256, broken}, s.Size, s.Key)
		if err == nil {
			_, err = r.Verify(context.Background(), VerifyOptions{})
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrIntegrity) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}
