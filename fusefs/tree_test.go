package fusefs

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

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
	dir := fusetest.SampleDir(t)
	volume := fusetest.Seal(t, dir)
	old, _ := mountTree(t, volume, MountOptions{oldKernel: true})
	fusetest.Compare(t, dir, old)
	mnt, s := mountTree(t, volume, MountOptions{})
	fusetest.Compare(t, dir, mnt)
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
	mountTree(t, &fusetest.Tree{Files: []string{"x"}}, MountOptions{})
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("/dev/null")) || bytes.Contains(out, []byte("/dev/fuse")) {
		t.Errorf("%v, open files of a program: %s", err, out)
	}
}

func TestMountErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	fusetest.WriteFile(t, file, nil, 0o600)
	for _, dir := range []string{file, "/no/such"} {
		if s, err := Mount(dir, &fusetest.Tree{}, MountOptions{}); err == nil {
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
	if _, err := Serve(fd, &fusetest.Tree{}, MountOptions{}); err == nil {
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
	mnt, _ := mountTree(t, &fusetest.Tree{Files: []string{"a", "b"}, Broken: errors.New("block 7")}, MountOptions{
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
		tree := &fusetest.Tree{Files: []string{content}, Reads: func() { reads.Add(1) }}
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
	mnt, _ := mountTree(t, &fusetest.Tree{Files: make([]string, files)}, MountOptions{})
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
