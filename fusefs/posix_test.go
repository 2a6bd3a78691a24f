package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
	"github.com/sealbatch/sealbatch/volume"
)

// What go-fuse's package posixtest asks of every file system, as far as a
// read-only one can answer it: its own tests write first.

func TestReadOnlyAnswers(t *testing.T) {
	t.Parallel()
	mnt, _ := mountTree(t, fusetest.Seal(t, fusetest.SampleDir(t)), MountOptions{})
	file, sub, script := filepath.Join(mnt, "plain"), filepath.Join(mnt, "sub"), filepath.Join(mnt, "run.sh")
	fd := openFile(t, file, unix.O_RDONLY)
	buf := make([]byte, 16)
	open := func(flags int) error {
		fd, err := unix.Open(file, flags|unix.O_CLOEXEC, 0o600)
		unix.Close(fd)
		return err
	}
	second := func(_ int, err error) error { return err }
	for name, c := range map[string]struct{ got, want error }{
		"open to write":       {open(unix.O_WRONLY), unix.EROFS},
		"open for both":       {open(unix.O_RDWR), unix.EROFS},
		"open to append":      {open(unix.O_APPEND | unix.O_WRONLY), unix.EROFS},
		"open to cut":         {open(unix.O_TRUNC), unix.EROFS},
		"open exclusively":    {open(unix.O_CREAT | unix.O_EXCL), unix.EEXIST},
		"open without a time": {open(unix.O_NOATIME), nil},
		"open a file as dir":  {open(unix.O_DIRECTORY), unix.ENOTDIR},
		"unnamed file":        {second(unix.Open(mnt, unix.O_TMPFILE|unix.O_RDWR, 0o600)), unix.EROFS},
		"truncate":            {unix.Truncate(file, 1), unix.EROFS},
		"write":               {second(unix.Pwrite(fd, buf, 0)), unix.EBADF},
		"times":               {unix.Utimes(file, make([]unix.Timeval, 2)), unix.EROFS},
		"owner":               {unix.Chown(file, os.Geteuid(), os.Getegid()), unix.EROFS},
		"rename":              {unix.Rename(file, file+"2"), unix.EROFS},
		"link":                {unix.Link(file, file+"2"), unix.EROFS},
		"symlink":             {unix.Symlink(file, file+"2"), unix.EROFS},
		"mkfifo":              {unix.Mkfifo(file+"2", 0o600), unix.EROFS},
		"rmdir":               {unix.Rmdir(sub), unix.EROFS},
		"set attribute":       {unix.Setxattr(file, "user.x", buf, 0), unix.EROFS},
		"remove attribute":    {unix.Removexattr(file, "user.x"), unix.EROFS},
		"capabilities":        {second(unix.Getxattr(file, "security.capability", buf)), unix.ENOTSUP},
		"list attributes":     {second(unix.Listxattr(file, buf)), unix.ENOTSUP},
		"readlink of a file":  {second(unix.Readlink(file, buf)), unix.EINVAL},
		"read a directory":    {second(unix.Pread(openFile(t, sub, unix.O_RDONLY), buf, 0)), unix.EISDIR},
		"below a file":        {unix.Access(file+"/x", unix.F_OK), unix.ENOTDIR},
		"may read":            {unix.Access(file, unix.R_OK), nil},
		"may write":           {unix.Access(file, unix.W_OK), unix.EROFS},
		"may not execute":     {unix.Access(file, unix.X_OK), unix.EACCES},
		"may execute":         {unix.Access(script, unix.X_OK), nil},
		"may enter":           {unix.Access(sub, unix.X_OK), nil},
		"name of 255 bytes":   {unix.Access(filepath.Join(mnt, strings.Repeat("n", 255)), unix.F_OK), unix.ENOENT},
		"name of 256 bytes":   {unix.Access(filepath.Join(mnt, strings.Repeat("n", 256)), unix.F_OK), unix.ENAMETOOLONG},
		"odd bytes":           {unix.Access(filepath.Join(mnt, "not-\xff-utf8 \n"), unix.R_OK), nil},
		"other odd bytes":     {unix.Access(filepath.Join(mnt, "not-\xfe-utf8 \n"), unix.R_OK), unix.ENOENT},
		"lock":                {unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB), nil},
		"fsync":               {unix.Fsync(fd), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	var st unix.Statfs_t
	err := unix.Statfs(mnt, &st)
	if err != nil || st.Namelen != 255 || st.Ffree != 0 || st.Bfree != 0 || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("statfs %+v, %v", st, err)
	}
}

func TestReadOnlySeeks(t *testing.T) {
	t.Parallel()
	mnt, _ := mountTree(t, fusetest.Seal(t, fusetest.SampleDir(t)), MountOptions{})
	fd := openFile(t, filepath.Join(mnt, "plain"), unix.O_RDONLY)
	for whence, c := range map[int]struct{ from, want int64 }{
		unix.SEEK_DATA: {5, 5}, unix.SEEK_HOLE: {5, 3_000_000}, unix.SEEK_END: {0, 3_000_000},
	} {
		if at, err := unix.Seek(fd, c.from, whence); at != c.want || err != nil {
			t.Errorf("seek %d: %d, %v", whence, at, err)
		}
	}
	if _, err := unix.Seek(fd, 3_000_000, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Errorf("data beyond the end: %v", err)
	}
}

func TestInodesAndTimes(t *testing.T) {
	t.Parallel()
	dir := fusetest.SampleDir(t)
	for name, sec := range map[string]int64{"1901": -1<<31 - 1000, "1969": -1, "2106": 1<<32 + 7} {
		fusetest.WriteFile(t, filepath.Join(dir, name), nil, 0o600)
		if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(sec, 999_999_999)); err != nil {
			t.Fatal(err)
		}
	}
	v := fusetest.Seal(t, dir)
	stat := func(mnt, name string) (st unix.Stat_t) {
		if err := unix.Lstat(filepath.Join(mnt, name), &st); err != nil {
			t.Fatal(err)
		}
		st.Dev = 0
		return st
	}
	first, _ := mountTree(t, v, MountOptions{})
	second, _ := mountTree(t, v, MountOptions{})
	fusetest.Compare(t, dir, first) // the times among it
	inodes := map[uint64]string{}
	for _, name := range []string{".", "plain", "empty", "run.sh", "sub", "sub/again", "link", "1901", "1969", "2106"} {
		a := stat(first, name)
		if b := stat(second, name); a != b {
			t.Errorf("%s: %+v, in the other mount %+v", name, a, b)
		}
		if other, ok := inodes[a.Ino]; ok != (name == "sub/again") || (ok && other != "plain") {
			t.Errorf("%s has the inode of %q", name, other)
		}
		inodes[a.Ino] = name
	}
}

// dirents reads one buffer of a directory: names, and the place after each.
func dirents(t *testing.T, fd int, buf []byte) (names []string, after []int64) {
	t.Helper()
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	for b := buf[:n]; len(b) > 0; { // struct linux_dirent64: ino, off, reclen, type, name
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:size], []byte{0})
		names, after = append(names, string(name)), append(after, int64(binary.NativeEndian.Uint64(b[8:])))
		b = b[size:]
	}
	return names, after
}

func TestHugeDirectorySeeks(t *testing.T) {
	t.Parallel()
	const files = 100_000
	mnt, _ := mountTree(t, &fusetest.Tree{Files: make([]string, files)}, MountOptions{})
	fd := openFile(t, mnt, unix.O_RDONLY|unix.O_DIRECTORY)
	var all []string
	var places []int64
	for buf := make([]byte, 1<<16); ; {
		names, after := dirents(t, fd, buf)
		if len(names) == 0 {
			break
		}
		all, places = append(all, names...), append(places, after...)
	}
	if len(all) != files+2 || all[0] != "." || all[1] != ".." || all[2] != "0" || all[files+1] != fmt.Sprint(files-1) {
		t.Fatalf("%d names", len(all))
	}
	small := make([]byte, 1<<10)
	for _, i := range []int{files, 50_000, 0, 1, 99_999, 7} { // seekdir to what telldir gave
		if _, err := unix.Seek(fd, places[i], unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		if names, _ := dirents(t, fd, small); names[0] != all[i+1] {
			t.Errorf("after %s: %s, want %s", all[i], names[0], all[i+1])
		}
	}
	if _, err := unix.Seek(fd, places[files+1], unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	if names, _ := dirents(t, fd, small); len(names) != 0 {
		t.Errorf("after the last: %q", names)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil { // rewinddir
		t.Fatal(err)
	}
	if names, _ := dirents(t, fd, small); names[0] != "." {
		t.Errorf("at the beginning again: %q", names)
	}
}

// deepTree is a directory in a directory, and so on.
type deepTree struct{ fusetest.Tree }

const depth = 2000

func (deepTree) Len() int                                  { return depth + 1 }
func (d deepTree) Attr(uint32) volume.Attr                 { return d.Tree.Attr(0) }
func (deepTree) ReadAt(uint32, []byte, int64) (int, error) { return 0, volume.ErrPath }

func (deepTree) Dirents(node uint32) []volume.Dirent {
	if node == depth {
		return nil
	}
	return []volume.Dirent{{Name: "d", Node: node + 1, Type: volume.Dir}}
}

func (deepTree) Lookup(dir uint32, name string) (uint32, bool) {
	return dir + 1, name == "d" && dir < depth
}

// TestDeepDirectory: names of any length in all; and inodes that the kernel
// forgets all at once are found again.
func TestDeepDirectory(t *testing.T) {
	t.Parallel()
	for range 2 { // unmounting forgets all
		mnt, s := mountTree(t, &deepTree{}, MountOptions{})
		fd, err := unix.Open(mnt, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		for level := 0; level < depth && err == nil; level++ {
			var next int
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(fd)
			fd = next
		}
		if err != nil {
			t.Fatal(err)
		}
		if names, _ := dirents(t, fd, make([]byte, 1000)); len(names) != 2 {
			t.Errorf("at the bottom: %q", names)
		}
		unix.Close(fd)
		if err := s.Unmount(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnmountWhileFilesAreOpen(t *testing.T) {
	t.Parallel()
	mnt, s := mountTree(t, newMadeTree(), MountOptions{})
	fd, err := unix.Open(filepath.Join(mnt, "short"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err == nil {
		t.Fatal("unmounted while a file was open")
	}
	if err := readMade(fd, make([]byte, 1<<16), 0, smallSize); err != nil {
		t.Error("after unmounting failed:", err)
	}
	detach(t, mnt)
	if err := readMade(fd, make([]byte, 1<<16), 1<<20, smallSize); err != nil {
		t.Error("after unmounting lazily:", err)
	}
	if names, err := os.ReadDir(mnt); err != nil || len(names) != 0 {
		t.Errorf("something is mounted: %v, %v", names, err)
	}
	unix.Close(fd)
	select {
	case <-s.Done():
	case <-time.After(long):
		t.Error("the server does not end with the last file")
	}
}

// TestStoreBelowTheMount: what happens to the sealed file while it is mounted.
func TestStoreBelowTheMount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(store *store)
		want  error
	}{
		"intact":          {func(*store) {}, nil},
		"cut":             {func(s *store) { s.size = s.size / 2 }, volume.ErrSize},
		"altered":         {func(s *store) { s.flip = true }, volume.ErrBlock},
		"stale":           {func(s *store) { s.err = &os.PathError{Op: "read", Path: "x", Err: unix.ESTALE} }, unix.ESTALE},
		"short reads":     {func(s *store) { s.short = true }, volume.ErrSize},
		"storage failing": {func(s *store) { s.err = unix.EIO }, unix.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			dir := t.TempDir()
			fusetest.WriteFile(t, filepath.Join(dir, "f"), want, 0o600)
			st, v := sealedOn(t, dir)
			reported := make(chan error, 1)
			mnt, _ := mountTree(t, v, MountOptions{ReadError: func(_ uint32, err error) { reported <- err }})
			fd := openFile(t, filepath.Join(mnt, "f"), unix.O_RDONLY)
			st.mu.Lock()
			c.spoil(st)
			st.mu.Unlock()
			got := make([]byte, 4096)
			n, err := unix.Pread(fd, got, int64(len(want))-4096)
			if c.want == nil {
				if err != nil || !bytes.Equal(got[:n], want[:4096]) {
					t.Errorf("%d bytes, %v", n, err)
				}
				return
			}
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%d bytes, %v", n, err)
			}
			select {
			case err := <-reported: // before the reader hears of it
				if !errors.Is(err, c.want) {
					t.Errorf("reported %v, want %v", err, c.want)
				}
			default:
				t.Error("nobody was told")
			}
		})
	}
}
