package fusefs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
	"github.com/sealbatch/sealbatch/volume"
)

// TestNearbyRun: the second file of a run brings some more, and each file that then has to be asked for
// twice as many, up to a bound.
func TestNearbyRun(t *testing.T) {
	t.Parallel()
	f, k := newTaking(&farTree{size: 5000, files: 200})
	next := uint32(1)
	for _, want := range []uint32{0, 4, 8, 16, 32, 64, 64, 64} { // the last meets the end of the tree
		nodes := k.read(f, next)
		if !slices.Equal(nodes, count(next+1, min(want, 200-next))) {
			t.Errorf("after %d: %d", next, nodes)
		}
		next += uint32(len(nodes)) + 1
	}
	if next != 201 {
		t.Errorf("the run ends before %d", next)
	}
}

// TestNothingNearby: nothing is prefetched for who reads here and there or backwards, nor large files, nor
// empty ones.
func TestNothingNearby(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size int64
		node func(i uint32) uint32
	}{
		"backwards":      {5000, func(i uint32) uint32 { return 10_000 - i }},
		"here and there": {5000, func(i uint32) uint32 { return i * 7919 % 10_000 }},
		"far apart":      {5000, func(i uint32) uint32 { return 10 * i }},
		"again":          {5000, func(uint32) uint32 { return 7 }},
		"large":          {smallFile + 1, func(i uint32) uint32 { return i }},
		"empty":          {0, func(i uint32) uint32 { return i }},
	} {
		b := nearby{tree: &farTree{size: c.size, files: 10_001}}
		for i := range uint32(1000) {
			if files, _ := b.observe(c.node(i+1), 0); files != nil {
				t.Fatalf("%s: %+v", name, files)
			}
		}
		if len(b.runs) > maxRuns {
			t.Errorf("%s: %d runs are remembered", name, len(b.runs))
		}
	}
}

// TestNearbyRefused: where the kernel does not know the files, they are not read in vain each time; where it
// knows some, the run goes on behind them.
func TestNearbyRefused(t *testing.T) {
	t.Parallel()
	tree := &farTree{size: 5000, files: 1000}
	f, k := newTaking(tree)
	for n := range uint32(1000) {
		k.err[n+1] = unix.ENOENT
	}
	for n := range uint32(660) {
		k.read(f, n+1)
	}
	if reads := tree.reads.Load(); reads < 15 || reads > 25 {
		t.Errorf("660 files were read by name, and %d in vain", reads)
	}

	f, k = newTaking(&farTree{size: 5000, files: 1000})
	k.err[5] = unix.ENOENT
	k.read(f, 1)
	if got := k.read(f, 2); !slices.Equal(got, []uint32{3, 4}) {
		t.Errorf("prefetched: %d", got)
	}
	if got := k.read(f, 5); !slices.Equal(got, count(6, 8)) {
		t.Errorf("after the one that was not known: %d", got)
	}
}

// inCore reports whether the kernel holds a file's first page, without asking for it.
func inCore(t *testing.T, path string) bool {
	t.Helper()
	b := mapped(t, openFile(t, path, unix.O_RDONLY), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	var in [1]byte
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), 4096, uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	return in[0]&1 != 0
}

// smallFiles is a directory of two with small files of all sizes that matter.
func smallFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			size := 1 + rand.IntN(20_000)
			if i%10 > 7 {
				size = []int{0, 1, 4095, 4096, 4097, 8192, smallFile, smallFile + 1}[rand.IntN(8)]
			}
			if i < 8 {
				size = 5000
			}
			data := make([]byte, size)
			made(data, rand.Int64N(1<<30)&^4095)
			fusetest.WriteFile(t, fmt.Sprintf("%s/%s/%03d", dir, sub, i), data, 0o644)
		}
	}
	return dir
}

// TestSmallFilesInOrder: the kernel has the files that come next before they are asked for, and they are
// what they should be, however many read them.
func TestSmallFilesInOrder(t *testing.T) {
	t.Parallel()
	dir := smallFiles(t)
	mount := func() string {
		at := t.TempDir()
		s, err := Mount(at, fusetest.Seal(t, dir), MountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Unmount(); err != nil {
				t.Error(err)
			}
		})
		return at
	}
	read := func(path string) {
		if _, err := os.ReadFile(path); err != nil {
			t.Error(err)
		}
	}
	have := func(at string, n int) string {
		var got strings.Builder
		for i := range n {
			got.WriteString(map[bool]string{true: "x", false: "."}[inCore(t, fmt.Sprintf("%s/a/%03d", at, i))])
		}
		return got.String()
	}
	for name, want := range map[string]string{"listed": "xxxxxx..", "by name": "xx......"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := mount()
			if name == "listed" {
				if _, err := os.ReadDir(at + "/a"); err != nil {
					t.Fatal(err)
				}
			}
			read(at + "/a/000")
			read(at + "/a/001")
			if got := have(at, 8); got != want {
				t.Errorf("the kernel has %s, want %s", got, want)
			}
			fusetest.Compare(t, dir, at)
		})
	}
	t.Run("by many", func(t *testing.T) {
		t.Parallel()
		at := mount()
		var readers sync.WaitGroup
		for range 30 {
			readers.Go(func() { fusetest.Compare(t, dir, at) })
		}
		readers.Wait()
	})
}

// TestSmallFilesDamaged: a damaged file among others is an error to its reader, and is reported once; the
// others are read.
func TestSmallFilesDamaged(t *testing.T) {
	t.Parallel()
	tree := &damaged{Tree: fusetest.Seal(t, smallFiles(t))}
	var reported atomic.Int32
	at := t.TempDir()
	s, err := Mount(at, tree, MountOptions{ReadError: func(uint32, error) { reported.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	entries, err := os.ReadDir(at + "/a")
	if err != nil {
		t.Fatal(err)
	}
	node, _ := tree.Lookup(0, "a")
	bad, _ := tree.Lookup(node, "004")
	tree.bad.Store(bad)
	for _, e := range entries {
		_, err := os.ReadFile(at + "/a/" + e.Name())
		if isBad := e.Name() == "004"; isBad != errors.Is(err, unix.EIO) || !isBad && err != nil {
			t.Errorf("%s: %v", e.Name(), err)
		}
	}
	if n := reported.Load(); n != 1 {
		t.Errorf("%d read errors were reported", n)
	}
}

// damaged is a tree with one file that cannot be read.
type damaged struct {
	Tree
	bad atomic.Uint32
}

func (d *damaged) ReadAt(node uint32, p []byte, off int64) (int, error) {
	if node == d.bad.Load() {
		return 0, volume.ErrBlock
	}
	return d.Tree.ReadAt(node, p, off)
}
