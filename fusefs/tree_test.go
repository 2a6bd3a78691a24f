package fusefs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// sealed seals dir and opens the result.
func sealed(t testing.TB, dir string) *volume.Reader {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := volume.Seal(context.Background(), f, source.DirSource(dir), volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.OpenFile(file, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func write(t testing.TB, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// sampleDir is a directory with one of everything.
func sampleDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plain"), bytes.Repeat([]byte("0123456789"), 300_000), 0o640)
	write(t, filepath.Join(dir, "empty"), nil, 0o666)
	write(t, filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\necho ran\n"), 0o755)
	write(t, filepath.Join(dir, "not-\xff-utf8 \n"), []byte("odd"), 0o400)
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "sub"), 0o750),
		os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "sub", "again")),
		os.Symlink("sub/again", filepath.Join(dir, "link")),
		os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, time.Unix(1_000_000_007, 123)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// compare compares the tree at got with the directory at want. The latter belongs
// to whoever runs the tests, as the mount must.
func compare(t *testing.T, want, got string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		compareFile(t, rel, path, filepath.Join(got, rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := 0
	err = filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error {
		list++
		return err
	})
	if err != nil || list != seen {
		t.Errorf("the mount holds %d entries (%v), want %d", list, err, seen)
	}
}

func compareFile(t *testing.T, rel, want, got string) {
	t.Helper()
	var w, g unix.Stat_t
	if err := errors.Join(unix.Lstat(want, &w), unix.Lstat(got, &g)); err != nil {
		t.Errorf("%q: %v", rel, err)
		return
	}
	if g.Mode != w.Mode || g.Nlink != w.Nlink || g.Mtim != w.Mtim || g.Uid != w.Uid || g.Gid != w.Gid {
		t.Errorf("%q: attributes %+v, want %+v", rel, g, w)
	}
	switch w.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		wantData, err1 := os.ReadFile(want)
		gotData, err2 := os.ReadFile(got)
		if err1 != nil || err2 != nil || !bytes.Equal(wantData, gotData) || g.Size != w.Size {
			t.Errorf("%q: contents differ (%v, %v)", rel, err1, err2)
		}
	case unix.S_IFLNK:
		wantText, err1 := os.Readlink(want)
		gotText, err2 := os.Readlink(got)
		if err1 != nil || err2 != nil || wantText != gotText || g.Size != w.Size {
			t.Errorf("%q: links to %q, want %q (%v, %v)", rel, gotText, wantText, err1, err2)
		}
	}
}

func TestSpaceServesTree(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := sampleDir(t)
	if err := s.MountTree("in/sample", sealed(t, dir)); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "", `cd "$1" || exit; cmp plain "$2/plain" && cmp link "$2/plain" && ./run.sh && ls -q | wc -l`,
		s.Path("in/sample"), dir)
	if got != "ran\n6" || exit.Code != 0 {
		t.Fatalf("output %q, %+v", got, exit)
	}
	compare(t, dir, s.Outside("in/sample"))
	if err := s.Unmount("in/sample"); err != nil {
		t.Fatal(err)
	}
}

// mountTree mounts tree directly or by fusermount3, as the user may.
func mountTree(t testing.TB, tree Tree, opt MountOptions) (string, *Server) {
	t.Helper()
	dir := t.TempDir()
	s, err := Mount(dir, tree, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return dir, s
}

func TestMount(t *testing.T) {
	t.Parallel()
	dir := sampleDir(t)
	volume := sealed(t, dir)
	old, _ := mountTree(t, volume, MountOptions{oldKernel: true})
	compare(t, dir, old)
	mnt, s := mountTree(t, volume, MountOptions{})
	compare(t, dir, mnt)
	for name, err := range map[string]error{
		"create": os.WriteFile(filepath.Join(mnt, "new"), nil, 0o600),
		"write":  os.WriteFile(filepath.Join(mnt, "empty"), []byte("x"), 0o600),
		"remove": os.Remove(filepath.Join(mnt, "plain")),
		"chmod":  os.Chmod(filepath.Join(mnt, "plain"), 0o777),
		"mkdir":  os.Mkdir(filepath.Join(mnt, "d"), 0o700),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 { // the second answer comes from the kernel's cache
		if _, err := os.Stat(filepath.Join(mnt, "missing")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a missing name: %v", err)
		}
	}
	if _, err := unix.Getxattr(filepath.Join(mnt, "plain"), "user.x", make([]byte, 9)); !errors.Is(err, unix.ENOTSUP) {
		t.Errorf("getxattr: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mnt, &st); err != nil || st.Blocks*uint64(st.Bsize) < 3_000_000 || st.Bavail != 0 || st.Files != 7 {
		t.Errorf("statfs %+v, %v", st, err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(mnt); err != nil || len(names) != 0 {
		t.Errorf("after unmounting: %v, %v", names, err)
	}
}

// A program that held the connection would keep it from breaking when the server
// dies. (Not parallel: go-fuse marks a descriptor from fusermount3 a little late.)
func TestProgramsDoNotInheritTheConnection(t *testing.T) {
	mountTree(t, &fakeTree{files: []string{"x"}}, MountOptions{})
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("/dev/null")) || bytes.Contains(out, []byte("/dev/fuse")) {
		t.Errorf("%v, open files of a program: %s", err, out)
	}
}

func TestMountErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil, 0o600)
	for _, dir := range []string{file, "/no/such"} {
		if s, err := Mount(dir, &fakeTree{}, MountOptions{}); err == nil {
			t.Errorf("mounted at %s: %v", dir, s.Unmount())
		}
	}
}

func TestServeRefusesWhatIsNoConnection(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := Serve(fd, &fakeTree{}, MountOptions{}); err == nil {
		t.Error("a pipe is served")
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the descriptor is still open: %d, %v", n, err)
	}
}

func TestReadErrorsAreReportedOnceByNumber(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var reported []uint32
	var mu sync.Mutex
	mnt, _ := mountTree(t, &fakeTree{files: []string{"a", "b"}, broken: errors.New("block 7")}, MountOptions{
		Log: slog.New(slog.NewTextHandler(&log, nil)),
		ReadError: func(node uint32, err error) {
			mu.Lock()
			defer mu.Unlock()
			reported = append(reported, node)
		},
	})
	for range 3 {
		if data, err := os.ReadFile(filepath.Join(mnt, "1")); !errors.Is(err, unix.EIO) || len(data) != 0 {
			t.Errorf("read %q, %v", data, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(reported, []uint32{2}) || strings.Count(log.String(), "entry=2") != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("reported %v, logged %s", reported, &log)
	}
}

func TestPagesAreKept(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		var reads atomic.Int64
		content := strings.Repeat("x", 1<<20)
		tree := &fakeTree{files: []string{content}, reads: func() { reads.Add(1) }}
		mnt, _ := mountTree(t, tree, MountOptions{oldKernel: old})
		var first int64
		for i := range 3 {
			data, err := os.ReadFile(filepath.Join(mnt, "0"))
			if err != nil || string(data) != content {
				t.Fatalf("%d bytes, %v", len(data), err)
			}
			if i == 0 {
				first = reads.Load()
			}
		}
		if n := reads.Load(); first == 0 || n != first {
			t.Errorf("old kernel %v: %d reads, then %d more", old, first, n-first)
		}
	}
}

func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	const files = 5000
	mnt, _ := mountTree(t, &fakeTree{files: make([]string, files)}, MountOptions{})
	d, err := os.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 2 {
		names, err := d.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		if names = slices.Compact(names); len(names) != files {
			t.Errorf("%d different names, want %d", len(names), files)
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPermissionsHold(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	// In a space even root has no capability to pass over permissions.
	if err := s.MountTree("in", &fakeTree{files: []string{"secret"}, mode: 0o100000}); err != nil {
		t.Fatal(err)
	}
	if got, exit := shell(t, s, "", `cat "$1"/0`, s.Path("in")); exit.Code == 0 || !strings.Contains(got, "Permission denied") {
		t.Errorf("a file with mode 000: %q, %+v", got, exit)
	}
}
