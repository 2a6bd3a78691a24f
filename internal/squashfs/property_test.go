package squashfs

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", 0, "seed of the generated trees; 0 draws one")

// generator makes trees with everything that an image carries. An ordinary user cannot unpack all of it, and gets
// trees with what he can.
type generator struct {
	r     *rand.Rand
	root  bool
	dirs  []*file
	files []*file
	datas [][]byte
}

func generate(r *rand.Rand, root bool) *file {
	g := &generator{r: r, root: root}
	top := &file{Node: g.node(TypeDirectory), in: map[string]*file{}}
	g.dirs = []*file{top}
	for range 10 + r.IntN(20) {
		g.dir()
	}
	for range 60 + r.IntN(60) {
		g.put(g.file())
	}
	for range 15 {
		link := &file{Node: g.node(TypeSymlink)}
		link.Target = g.bytes(1+r.IntN(maxTarget), 1)
		g.put(link)
		g.put(g.files[r.IntN(len(g.files))])
	}
	many := g.dir()
	for i := range r.IntN(1000) {
		many.in[fmt.Sprintf("%0*d", 1+r.IntN(100), i)] = g.files[r.IntN(len(g.files))]
	}
	return top
}

// node draws what all inodes have.
func (g *generator) node(typ uint32) Node {
	n := Node{Mode: typ | 0o700 | g.r.Uint32N(0o100), Mtime: time.Unix(int64(g.r.Uint32()), 0)}
	n.UID, n.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	if g.root {
		n.UID, n.GID = g.r.Uint32N(4)*1_000_000_000, g.r.Uint32N(70_000)
	}
	if typ == TypeSymlink {
		n.Mode = typ | 0o777
	} else if g.root {
		n.Mode |= g.r.Uint32N(0o10) << 9
	}
	if g.r.IntN(3) == 0 {
		n.Xattrs = g.xattrs(typ)
	}
	return n
}

// xattrs draws extended attributes. Names in different spaces are different, or squashfuse (0.1.105) takes one for
// another.
func (g *generator) xattrs(typ uint32) map[string][]byte {
	spaces := []string{"trusted.", "security."}
	if !g.root {
		spaces = nil
	}
	if typ != TypeSymlink { // Linux has no others on them
		spaces = append(spaces, "user.")
	}
	m := map[string][]byte{}
	for range g.r.IntN(4) {
		if len(spaces) > 0 {
			space := spaces[g.r.IntN(len(spaces))]
			m[space+space[:1]+fmt.Sprint(g.r.IntN(5))] = []byte(g.bytes(g.r.IntN(300), 0))
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

// bytes draws n bytes that are not less than low.
func (g *generator) bytes(n int, low byte) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = low + byte(g.r.IntN(256-int(low)))
	}
	return string(b)
}

func (g *generator) dir() *file {
	d := &file{Node: g.node(TypeDirectory), in: map[string]*file{}}
	g.put(d)
	g.dirs = append(g.dirs, d)
	return d
}

// put gives a file a name somewhere, now and then in the newest directory, so that some are deep.
func (g *generator) put(f *file) {
	d := g.dirs[g.r.IntN(len(g.dirs))]
	if g.r.IntN(2) == 0 {
		d = g.dirs[len(g.dirs)-1]
	}
	length := 1 + g.r.IntN(12)
	if g.r.IntN(8) == 0 {
		length = maxName
	}
	name := strings.ReplaceAll(g.bytes(length, 1), "/", "\\")
	if name == "." || name == ".." {
		return
	}
	d.in[name] = f
}

// file draws a regular file: of every size around the edges of blocks, with zeros, and like one before.
func (g *generator) file() *file {
	sizes := []int{0, 1, 100, 5000, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize, 3*blockSize + 77}
	f := &file{Node: g.node(TypeRegular)}
	g.files = append(g.files, f)
	if len(g.datas) > 0 && g.r.IntN(4) == 0 {
		f.data = g.datas[g.r.IntN(len(g.datas))]
		return f
	}
	size := sizes[g.r.IntN(len(sizes))]
	switch g.r.IntN(3) {
	case 0: // does not shrink
		f.data = make([]byte, size)
		fill := rand.NewChaCha8([32]byte{byte(g.r.Uint32())})
		fill.Read(f.data)
	case 1:
		f.data = bytes.Repeat([]byte{byte(g.r.Uint32()), 'x', 'y'}, size/3+1)[:size]
	case 2: // blocks of zeros, and others
		f.data = make([]byte, size)
		for at := range size/blockSize + 1 {
			if i := at*blockSize + g.r.IntN(blockSize); i < size && g.r.IntN(2) == 0 {
				f.data[i] = 1
			}
		}
	}
	g.datas = append(g.datas, f.data)
	return f
}

// TestTrees writes generated trees and has unsquashfs, squashfuse and Linux read them.
func TestTrees(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	for i, compression := range []Compression{Gzip, Zstd} {
		t.Run(fmt.Sprint(compression), func(t *testing.T) {
			t.Parallel()
			t.Logf("go test ./internal/squashfs -run '^TestTrees$' -seed %d", *seed)
			root := generate(rand.New(rand.NewPCG(*seed, uint64(i))), os.Geteuid() == 0)
			image := write(t, Options{Compression: compression, Workers: 1, MTime: time.Unix(1, 0)}, root)
			again := write(t, Options{Compression: compression, Workers: 8, MTime: time.Unix(1, 0)}, root)
			if !bytes.Equal(image, again) {
				t.Error("other bytes with more workers")
			}
			got, err := parse(image)
			must(t, err)
			must(t, alike(root, got, "", map[*file]*file{}))
			path := save(t, image)
			for _, d := range drivers() {
				t.Run(d.name, func(t *testing.T) { compare(t, root, d.show(t, path), d.xattrs) })
			}
		})
	}
}
