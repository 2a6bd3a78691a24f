package squashfs

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var large = flag.Bool("large", false, "write images of 2 GiB and of 70,000 files")

// TestFar has a file of more than 4 GiB, and everything but the superblock beyond 4 GiB of the image, which has a hole
// there. Blocks are handed to the pipeline, since reading 4 GiB of zeros takes the race detector long.
func TestFar(t *testing.T) {
	t.Parallel()
	const hole, zeros = 5 << 30, 4<<30 + 3*blockSize
	path := filepath.Join(t.TempDir(), "far.sqfs")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	w, err := NewWriter(context.Background(), io.NewOffsetWriter(f, SuperblockSize+hole), Options{})
	must(t, err)
	defer w.Close()
	w.out.n += hole
	const size = zeros + 2*blockSize
	ends := [][]byte{random(blockSize, 1), bytes.Repeat([]byte("the end\n"), blockSize/8)}
	big := &Content{size: size, fragment: noFragment}
	for i := range size / blockSize {
		b := w.pipe.get()
		if b.file = big; i%(size/blockSize-1) == 0 {
			b.raw = append(b.raw, ends[min(i, 1)]...)
		}
		must(t, w.pipe.submit(b))
	}
	superblock, n, err := w.Finish(&Node{Mode: TypeDirectory | 0o755, Entries: map[string]*Node{
		"big": {Mode: TypeRegular | 0o644, Content: big}}})
	must(t, err)
	_, err = f.WriteAt(superblock[:], 0)
	must(t, err)
	if n < hole || n > hole+4*blockSize {
		t.Errorf("an image of %d bytes", n)
	}
	for _, d := range drivers() {
		t.Run(d.name, func(t *testing.T) {
			file := d.show(t, path) + "/big"
			checkPart(t, file, 0, ends[0])
			checkPart(t, file, zeros/2, make([]byte, 3*blockSize))
			checkPart(t, file, size-blockSize-5, append(make([]byte, 5), ends[1]...))
			var st unix.Stat_t
			must(t, unix.Stat(file, &st))
			if st.Size != size || st.Blocks > 4*blockSize/512 && d.name != "squashfuse" {
				t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
			}
		})
	}
}

// checkPart reads what begins at a place of a file.
func checkPart(t *testing.T, path string, at int64, want []byte) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
		t.Errorf("at %d: %v, or not what was written", at, err)
	}
}

// TestDirectory looks up the names of a large directory, and names beside them.
func TestDirectory(t *testing.T) {
	t.Parallel()
	n := 3000
	if *large {
		n = 70_000
	}
	root := &file{Node: Node{Mode: TypeDirectory | 0o755, Mtime: time.Unix(1, 0)}, in: map[string]*file{}}
	for i := range n {
		f := &file{Node: Node{Mode: TypeRegular | 0o644, Mtime: time.Unix(int64(i), 0)}}
		root.in[fmt.Sprintf("module-%x.py", i*i)] = f
	}
	path := save(t, write(t, Options{}, root))
	for _, d := range drivers() {
		t.Run(d.name, func(t *testing.T) {
			dir := d.show(t, path)
			begin := time.Now()
			for _, i := range rand.Perm(n)[:1000] {
				name := fmt.Sprintf("%s/module-%x.py", dir, i*i)
				if fi, err := os.Stat(name); err != nil || fi.ModTime().Unix() != int64(i) {
					t.Fatalf("%s: %v", name, err)
				}
			}
			t.Logf("%v to find a name", time.Since(begin)/1000)
			begin = time.Now()
			for i := range 20 { // few, since Linux searches to the first name that begins with another letter
				name := fmt.Sprintf("%s/module-%x.pyc", dir, i*i)
				if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("%s is there: %v", name, err)
				}
			}
			t.Logf("%v to find that a name is not there", time.Since(begin)/20)
			compare(t, root, dir, d.xattrs)
		})
	}
}

// TestMemory writes contents that do not shrink. It is not parallel, since memory is the process's.
func TestMemory(t *testing.T) {
	size := 16 << 20
	if *large {
		size = 2 << 30
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := begin(t, Options{Workers: 2, Level: 1})
	r := rand.NewChaCha8([32]byte{1})
	entries := map[string]*Node{}
	for i := range 16 {
		c, err := w.Add(io.LimitReader(r, int64(size/16)), int64(size/16))
		must(t, err)
		entries[strings.Repeat("f", i+1)] = &Node{Mode: TypeRegular, Content: c}
	}
	_, _, err := w.Finish(&Node{Mode: TypeDirectory, Entries: entries})
	must(t, err)
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 12<<20 {
		t.Errorf("%d bytes of memory for an image of %d", grown, size)
	}
}
