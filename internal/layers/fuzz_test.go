package layers

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// FuzzMerge lays two layers of any bytes over a good one. What comes of it, if anything, is a tree that can be an image,
// and the same one each time.
func FuzzMerge(f *testing.F) {
	for _, second := range [][]member{
		{gone(".wh.a"), file("d/b", "b"), gone("d/.wh..wh..opq")},
		{hard("h", "l/f"), link("d", "l"), file("l/x/y", "y"), file("../z", "")},
		{device("a"), file("su", "su").mode(0o6755), file("x", "").pax("SCHILY.xattr.user.x", "v"), made('6', "p", "", "")},
		{file(".wh..wh.plnk/1", "x"), hard("f", ".wh..wh.plnk/1"), sparseFile("s", 5000)},
	} {
		plain := pack(f, second...)
		f.Add(plain, pack(f, file("d/c", "c"), gone("d/.wh.b")))
		f.Add(gzipped(plain), zstded(plain))
	}
	base := pack(f, dir("d"), file("d/f", "f"), file("a", "a"), link("l", "/d"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		layers := []Layer{stored(base, base, ociTar)}
		for _, b := range [][]byte{repaired(first), second} {
			plain, ok := inflated(b)
			if !ok {
				return
			}
			layers = append(layers, stored(b, plain, ""))
		}
		lim := Limits{Bytes: 4 << 20, Entries: 10_000, Names: 1 << 20, Depth: 40}
		tree, err := Merge(context.Background(), layers, lim)
		if err != nil {
			if tree != nil || !strings.HasPrefix(err.Error(), "layer ") || strings.ContainsAny(err.Error(), "\x00\x1b\n") {
				t.Errorf("%v, %q", tree, err)
			}
			return
		}
		sound(t, tree.Root, 0)
		again, err := Merge(context.Background(), layers, lim)
		must(t, err)
		if one, other := listing(t, tree), listing(t, again); one != other {
			t.Errorf("\n%s\nand the second time\n%s", one, other)
		}
	})
}

// repaired sets the checksums of a tar's headers right, so that changes of them come further.
func repaired(b []byte) []byte {
	b = bytes.Clone(b)
	for at := 0; at+512 <= len(b); {
		size, _ := strconv.ParseUint(strings.Trim(string(b[at+124:at+136]), "\x00 "), 8, 32)
		if kind := b[at+156]; !bytes.Equal(b[at:at+512], make([]byte, 512)) {
			retype(b[at:], kind)
		}
		at += 512 + int(size+511)/512*512
	}
	return b
}

// inflated is what a blob holds, unless it is too much.
func inflated(blob []byte) ([]byte, bool) {
	var plain []byte
	l := stored(blob, nil, "")
	none := func(int64) error { return nil }
	b, err := openBlob(context.Background(), l, none, none)
	if err != nil {
		return nil, true
	}
	defer b.close()
	buf := make([]byte, 4096)
	for len(plain) < 8<<20 {
		n, err := b.plain.Read(buf)
		if plain = append(plain, buf[:n]...); err != nil {
			return plain, true
		}
	}
	return nil, false
}

// sound checks what SquashFS wants of a tree.
func sound(t *testing.T, n *squashfs.Node, depth int) {
	kind := n.Mode & squashfs.TypeMask
	isLink, isFile := kind == squashfs.TypeSymlink, kind == squashfs.TypeRegular
	if n.Mode&^(squashfs.TypeMask|0o1777) != 0 || !isDir(n) && !isFile && !isLink {
		t.Errorf("mode %o", n.Mode)
	}
	if isLink != (n.Target != "") || len(n.Target) > maxTarget || !isDir(n) && len(n.Entries) > 0 {
		t.Errorf("mode %o, target %q, %d entries", n.Mode, n.Target, len(n.Entries))
	}
	if n.UID != 0 || n.GID != 0 || depth > 41 {
		t.Errorf("of %d:%d at depth %d", n.UID, n.GID, depth)
	}
	for name := range n.Xattrs {
		if !strings.HasPrefix(name, "user.") {
			t.Errorf("attribute %q", name)
		}
	}
	for name, child := range n.Entries {
		if strings.Trim(name, ".") == "" && len(name) < 3 || len(name) > maxName || strings.ContainsAny(name, "/\x00") ||
			isWhiteout(name) {
			t.Errorf("name %q", name)
		}
		sound(t, child, depth+1)
	}
}
