package layers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// TestAttributes: modes, owners and times, and what of the attributes is kept.
func TestAttributes(t *testing.T) {
	t.Parallel()
	old, late := time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2300, 1, 1, 0, 0, 0, 123, time.UTC)
	owned := file("owned", "x").mode(0o640)
	owned.Uid, owned.Gid, owned.Uname = 1000, 3_000_000, "user"
	tree := merged(t,
		layer(t, dir(".").mode(0o751).at(old), file("a/old", "x").at(old), file("a/late", "x").at(late), owned),
		layer(t, file("x", "").pax("SCHILY.xattr.user.kept", "1\x00\xff").pax("SCHILY.xattr.security.capability", "cap").
			pax("SCHILY.xattr.user.overlay.opaque", "y").pax("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
			dir("a").pax("SCHILY.xattr.user.dir", ""), link("l", "x").pax("SCHILY.xattr.user.link", "v"),
			file("caps", "").pax("SCHILY.xattr.security.capability", "cap"), hard("caps2", "caps")),
		layer(t, device("dev/null"), made('6', "pipe", "", ""), hard("pipe2", "pipe"), file("su", "x").mode(0o6755),
			hard("su2", "su"), device("gone"), gone("x2")),
		layer(t, file("gone", "")))
	get := func(path string) *squashfs.Node {
		n, err := tree.LookupLink(path)
		must(t, err)
		if n.UID != 0 || n.GID != 0 {
			t.Errorf("%s is of %d:%d", path, n.UID, n.GID)
		}
		return n
	}
	for path, want := range map[string]uint32{"": 0o40751, "a": 0o40755, "owned": 0o100640, "l": 0o120777, "su": 0o100755,
		"dev": 0o40755} {
		if got := get(path).Mode; got != want {
			t.Errorf("%q has mode %o; want %o", path, got, want)
		}
	}
	for path, want := range map[string]time.Time{"": old, "a/old": old, "a/late": late, "a": day, "dev": time.Unix(0, 0)} {
		if got := get(path).Mtime; !got.Equal(want) {
			t.Errorf("%q is of %v; want %v", path, got, want)
		}
	}
	xattrs := fmt.Sprint(get("x").Xattrs, get("a").Xattrs, get("l").Xattrs, get("caps").Xattrs)
	if xattrs != "map[user.kept:[49 0 255]] map[user.dir:[]] map[] map[]" {
		t.Errorf("attributes %s", xattrs)
	}
	if want := (Dropped{Devices: 1, FIFOs: 2, SetID: 1, Xattrs: 3}); tree.Dropped != want {
		t.Errorf("%+v; want %+v", tree.Dropped, want)
	}
	if got := tree.Dropped.String(); got != "1 device node, 2 named pipes, the set-uid or set-gid bits of 1 file, "+
		"extended attributes of 3 files and directories" {
		t.Error(got)
	}
	if tree.Bytes != 4 || tree.Files != 8 || tree.Dirs != 3 {
		t.Errorf("%d bytes in %d files, %d directories", tree.Bytes, tree.Files, tree.Dirs)
	}
}

// TestTree: paths are looked up and made through the image's links, which end in the image.
func TestTree(t *testing.T) {
	t.Parallel()
	tree := merged(t, layer(t, dir("usr/bin"), file("usr/bin/sh", "x"), link("bin", "/usr/bin"), link("etc", "../../usr/etc"),
		link("sh", "../bin/sh"), link("loop", "loop"), link("resolv", "/run/none"), file("f", "x")))
	sh, err := tree.Lookup("usr/bin/sh")
	must(t, err)
	for path, want := range map[string]error{
		"/bin/sh": nil, "sh": nil, "bin/../bin/./sh": nil, "bin/bash": fs.ErrNotExist, "f/x": fs.ErrNotExist,
		"resolv": fs.ErrNotExist,
		"none/x": fs.ErrNotExist, "loop": errLoop, "loop/x": errLoop, "../f": ErrFormat,
	} {
		n, err := tree.Lookup(path)
		if !errors.Is(err, want) || (want == nil) != (n == sh) {
			t.Errorf("%q: %v, %v; want %v", path, n, err, want)
		}
	}
	if n, err := tree.LookupLink("resolv"); err != nil || n.Target != "/run/none" {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := tree.LookupLink("etc/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	made, err := tree.Mkdir("etc/deep", 0o700)
	must(t, err)
	if again, err := tree.Mkdir("/usr/etc/deep", 0o755); again != made || err != nil || made.Mode != 0o40700 {
		t.Errorf("%o, %v", made.Mode, err)
	}
	if _, err := tree.Mkdir("f/x", 0o755); !errors.Is(err, ErrNoDirectory) {
		t.Error(err)
	}
	new := &squashfs.Node{Mode: squashfs.TypeRegular | 0o644}
	must(t, tree.Put("bin/sh", new))
	must(t, tree.Put("sh", new))
	if n, err := tree.Lookup("usr/bin/sh"); n != new || err != nil || tree.Root.Entries["sh"] != new {
		t.Errorf("%v, %v", n, err)
	}
	if err := tree.Put("/", new); err == nil {
		t.Error("the root was replaced")
	}
}

// TestSparse: sparse files as GNU tar stores them, in all of its formats.
func TestSparse(t *testing.T) {
	t.Parallel()
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"}} {
		work := t.TempDir()
		script := `truncate -s 3M s
			for i in 1 2 3 4 5 6 7 8; do echo data$i | dd of=s bs=1 seek=$((i * 300000)) conv=notrunc status=none; done
			tar --sparse "$@" -cf layer.tar s; sha256sum <s`
		cmd := exec.Command("sh", append([]string{"-ec", script, "sh"}, format...)...)
		cmd.Dir = work
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		plain := readFile(t, filepath.Join(work, "layer.tar"))
		if len(plain) > 1<<20 {
			t.Fatalf("%v: the archive is not sparse", format)
		}
		tree := merged(t, stored(plain, plain, ociTar))
		got := ""
		must(t, tree.Contents(context.Background(), func(_ *squashfs.Node, r io.Reader, size int64) error {
			b, err := io.ReadAll(r)
			got = strings.TrimPrefix(digestOf(b), "sha256:")
			return err
		}))
		if want := strings.Fields(string(out))[0]; got != want || tree.Bytes != 3<<20 {
			t.Errorf("%v: %s, %d bytes; want %s", format, got, tree.Bytes, want)
		}
	}
}

// TestManyLayers: a hundred and more, each over the last.
func TestManyLayers(t *testing.T) {
	t.Parallel()
	const many = 300
	layers := []Layer{layer(t, file("d/first", "x"))}
	for i := 1; i < many; i++ {
		layers = append(layers, layer(t, file("d/f", fmt.Sprint(i)), file(fmt.Sprintf("d/%03d", i), ""),
			gone(fmt.Sprintf("d/.wh.%03d", i-1))))
	}
	want := "d/ 755\nd/299 644 \"\"\nd/f 644 \"299\"\nd/first 644 \"x\"\n"
	if got := listing(t, merged(t, layers...)); got != want {
		t.Errorf("%s", got)
	}
}

// TestTreeIsSmall: what a file takes in memory, and that no header of a tar is kept. It runs alone, since it measures
// the heap.
func TestTreeIsSmall(t *testing.T) {
	const files = 50_000
	members := []member{}
	for i := range files {
		if i%50 == 0 {
			members = append(members, dir(fmt.Sprintf("usr/lib/dir%d", i/50)))
		}
		members = append(members, file(fmt.Sprintf("usr/lib/dir%d/module-%d.py", i/50, i), "x"))
	}
	large := strings.Repeat("a", 1<<20-512)
	for i := range 12 {
		members = append(members, link(fmt.Sprintf("ä%d", i), "ä").pax("X.x", large),
			file(fmt.Sprintf("ü%d/ö%d/f", i, i), "").pax("X.y", large))
	}
	for _, lowest := range []bool{true, false} {
		plain := pack(t, members...)
		layers := []Layer{stored(plain, plain, ociTar)}
		if !lowest {
			layers = append([]Layer{layer(t, dir("usr"))}, layers...)
		}
		before := heap()
		tree := merged(t, layers...)
		grown := heap() - before
		each := grown / files
		t.Logf("lowest %t: each file takes %d bytes of memory", lowest, each)
		if each > 260 {
			t.Errorf("lowest %t: each file takes %d bytes of memory", lowest, each)
		}
		runtime.KeepAlive(tree)
		runtime.KeepAlive(layers)
	}
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
