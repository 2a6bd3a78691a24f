package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// file is an inode of a test's tree, with its content.
type file struct {
	Node // without Entries and Content
	data []byte
	in   map[string]*file
}

// build adds what is in a tree to an image.
func (f *file) build(w *Writer, done map[*file]*Node) (*Node, error) {
	if n := done[f]; n != nil {
		return n, nil
	}
	n := f.Node
	done[f] = &n
	var err error
	if len(f.data) > 0 {
		if n.Content, err = w.Add(bytes.NewReader(f.data), int64(len(f.data))); err != nil {
			return nil, err
		}
	}
	if f.isDir() {
		n.Entries = map[string]*Node{}
	}
	for _, name := range slices.Sorted(maps.Keys(f.in)) {
		if n.Entries[name], err = f.in[name].build(w, done); err != nil {
			return nil, err
		}
	}
	return &n, nil
}

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if grow := int(at) + len(p) - len(m.b); grow > 0 {
		m.b = append(m.b, make([]byte, grow)...)
	}
	return copy(m.b[at:], p), nil
}

// write returns an image of a tree.
func write(t testing.TB, o Options, root *file) []byte {
	t.Helper()
	var m memory
	size, err := Create(context.Background(), &m, o, func(w *Writer) (*Node, error) {
		return root.build(w, map[*file]*Node{})
	})
	if err != nil {
		t.Fatal(err)
	}
	if int(size) != len(m.b) || size%4096 != 0 {
		t.Fatalf("an image of %d bytes is said to have %d", len(m.b), size)
	}
	return m.b
}

// save writes an image to a file and returns its path.
func save(t testing.TB, image []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sqfs")
	must(t, os.WriteFile(path, image, 0o600))
	return path
}

// unpacked returns a directory into which unsquashfs unpacked an image.
func unpacked(t testing.TB, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	command(t, "unsquashfs", "-no-progress", "-strict-errors", "-d", dir, image)
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+rwx", dir).Run() })
	return dir
}

// fuse returns a directory where squashfuse shows an image.
func fuse(t testing.TB, image string) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "squashfuse_ll", image, dir)
	t.Cleanup(func() { command(t, "fusermount3", "-u", "-z", dir) })
	return dir
}

// kernel returns a directory where Linux shows an image. It is for root.
func kernel(t testing.TB, image string) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "mount", "-t", "squashfs", "-o", "ro,loop", image, dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	return dir
}

// driver shows an image in a directory.
type driver struct {
	name   string
	show   func(t testing.TB, image string) (dir string)
	xattrs func(map[string][]byte) map[string][]byte
}

// drivers returns those there are for whoever runs the test. Only root may have Linux mount something.
func drivers() []driver {
	d := []driver{{"unsquashfs", unpacked, whole}, {"squashfuse", fuse, ofUsers}}
	if os.Geteuid() == 0 {
		d = append(d, driver{"kernel", kernel, whole})
	}
	return d
}

func command(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compare reports where a directory is not as a tree. xattrs is how sets of extended attributes appear there.
func compare(t testing.TB, want *file, dir string, xattrs func(map[string][]byte) map[string][]byte) {
	t.Helper()
	c := comparison{seen: map[*file]uint64{}, inodes: map[uint64]*file{}, xattrs: xattrs}
	if err := c.same(want, dir); err != nil {
		t.Error(err)
	}
}

type comparison struct {
	seen   map[*file]uint64
	inodes map[uint64]*file
	xattrs func(map[string][]byte) map[string][]byte
}

// whole is how Linux and unsquashfs show extended attributes.
func whole(m map[string][]byte) map[string][]byte { return m }

// ofUsers is how squashfuse does: empty values are not found, and it takes the numbers of "trusted." and "security."
// for each other's (0.1.105, also in images of mksquashfs).
func ofUsers(m map[string][]byte) map[string][]byte {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(name string, v []byte) bool { return !strings.HasPrefix(name, "user.") || len(v) == 0 })
	return m
}

func (c *comparison) same(want *file, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	got := Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: time.Unix(st.Mtim.Unix())}
	if got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID || got.Mtime.Unix() != want.Mtime.Unix() {
		return fmt.Errorf("%q: %+v, want %+v", path, got, want.Node)
	}
	if err := c.sameLinks(want, path, &st); err != nil {
		return err
	}
	if err := sameXattrs(want.Xattrs, path, c.xattrs); err != nil {
		return err
	}
	switch want.Mode & TypeMask {
	case TypeSymlink:
		if target, err := os.Readlink(path); err != nil || target != want.Target {
			return fmt.Errorf("%q points to %q, %v, want %q", path, target, err, want.Target)
		}
	case TypeRegular:
		return sameContent(want.data, path)
	case TypeDirectory:
		return c.sameEntries(want, path)
	}
	return nil
}

// sameLinks checks that two names are of one inode if, and only if, they are in the tree.
func (c *comparison) sameLinks(want *file, path string, st *unix.Stat_t) error {
	if inode, seen := c.seen[want]; seen && inode != st.Ino {
		return fmt.Errorf("%q is no hard link", path)
	}
	if other, seen := c.inodes[st.Ino]; seen && other != want {
		return fmt.Errorf("%q is a hard link", path)
	}
	c.seen[want], c.inodes[st.Ino] = st.Ino, want
	return nil
}

func (c *comparison) sameEntries(want *file, dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	if expect := slices.Sorted(maps.Keys(want.in)); !slices.Equal(names, expect) {
		return fmt.Errorf("%q holds %q, want %q", dir, names, expect)
	}
	for _, name := range names {
		if err := c.same(want.in[name], dir+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func sameContent(want []byte, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%q: %d bytes, %v, want %d", path, len(got), err, len(want))
	}
	return nil
}

func sameXattrs(want map[string][]byte, path string, appear func(map[string][]byte) map[string][]byte) error {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, list)
	if err != nil && (!errors.Is(err, unix.EOPNOTSUPP) || len(want) > 0) { // which Linux says where no file has any
		return err
	}
	got := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:max(n, 0)]), "\x00"), "\x00") {
		value := make([]byte, maxXattrValue)
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
		got[name] = value[:max(n, 0)]
	}
	got, want = appear(got), appear(want)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, slices.Sorted(maps.Keys(want))) {
		return fmt.Errorf("%q has the attributes %q, want %.100q", path, names, want)
	}
	for name, value := range want {
		if !bytes.Equal(got[name], value) {
			return fmt.Errorf("%q has the attribute %s %.100q, want %.100q", path, name, got[name], value)
		}
	}
	return nil
}
