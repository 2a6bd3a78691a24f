package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// content returns n bytes that do not repeat, so that swapped chunks show.
func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// upload stages a file and gives it its name.
func upload(ctx context.Context, fsys FS, src io.ReaderAt, size int64, path string, o UploadOptions) (int64, error) {
	n, err := Stage(ctx, fsys, src, size, path, o)
	if err != nil {
		return 0, err
	}
	return n, fsys.Rename(path+PartialSuffix, path)
}

func TestUpload(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		for _, size := range []int{0, 1, sftpPacket, sftpPacket + 1, 5<<20 + 12345} {
			data, path := content(size), fmt.Sprintf("%s/data", t.TempDir())
			var last int64
			o := UploadOptions{Mode: 0o640, Progress: func(n int64) { last = n }}
			got, err := upload(t.Context(), fsys, bytes.NewReader(data), int64(size), path, o)
			if err != nil || got != int64(size) || last != int64(size) {
				t.Errorf("%d bytes: %+v, %v, progress %d", size, got, err, last)
			}
			checkFile(t, path, data, 0o640)
			back := filepath.Join(t.TempDir(), "back")
			down, err := Download(t.Context(), fsys, path, back, int64(size), nil)
			if err != nil || down != int64(size) {
				t.Errorf("%d bytes back: %+v, %v", size, down, err)
			}
			checkFile(t, back, data, 0o600)
			if _, err := Download(t.Context(), fsys, path, back, int64(size)-1, nil); err == nil {
				t.Errorf("%d bytes fetched past the limit", size)
			}
		}
	})
}

func checkFile(t *testing.T, path string, data []byte, mode fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != mode {
		t.Errorf("%s: %v, %v", path, info, err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s: %d bytes that differ from %d, %v", path, len(got), len(data), err)
	}
	if _, err := os.Lstat(path + PartialSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", path+PartialSuffix, err)
	}
}

// failing is a source of zeros that does something, and fails if it has an error, once it is read beyond a place.
type failing struct {
	after int64
	do    func()
	err   error
	once  sync.Once
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.after {
		if f.do != nil {
			f.once.Do(f.do)
		}
		if f.err != nil {
			return 0, f.err
		}
	}
	clear(p)
	return len(p), nil
}

// Whatever goes wrong, the old file stays under the final name and no unfinished one is left.
func TestUploadFails(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		path := t.TempDir() + "/data"
		writeFile(t, path, "old")
		boom := errors.New("boom")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		big := content(4 << 20)
		for name, try := range map[string]func() error{
			"source too short": func() error {
				return second(upload(t.Context(), fsys, bytes.NewReader(big), 5<<20, path, UploadOptions{}))
			},
			"source fails": func() error {
				return second(upload(t.Context(), fsys, &failing{after: 1 << 20, err: boom}, 5<<20, path, UploadOptions{}))
			},
			"cancelled on the way": func() error {
				return second(upload(ctx, fsys, &failing{after: 1 << 20, do: cancel}, 64<<20, path, UploadOptions{}))
			},
		} {
			if err := try(); err == nil {
				t.Errorf("%s: no error", name)
			} else if name == "source fails" && !errors.Is(err, boom) || strings.HasPrefix(name, "cancelled") && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			checkFile(t, path, []byte("old"), 0o600)
		}
	})
}

// An unfinished upload of somebody else's, or of yesterday, is not mixed with.
func TestUploadPartialExists(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		path := t.TempDir() + "/data"
		writeFile(t, path+PartialSuffix, "half")
		src := strings.NewReader("whole")
		if _, err := upload(t.Context(), fsys, src, 5, path, UploadOptions{}); !errors.Is(err, ErrPartial) {
			t.Errorf("got %v", err)
		}
		if readString(t, path+PartialSuffix) != "half" {
			t.Error("the other upload was touched")
		}
		if _, err := upload(t.Context(), fsys, src, 5, path, UploadOptions{ReplacePartial: true}); err != nil {
			t.Error(err)
		}
		checkFile(t, path, []byte("whole"), 0o600)
	})
}

// When the connection is cut, the final name does not appear and the error comes at once.
func TestUploadConnectionCut(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	c := dial(t, s)
	fsys, err := c.FS()
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/data"
	_, err = upload(t.Context(), fsys, &failing{after: 8 << 20, do: s.kill}, 1<<30, path, UploadOptions{})
	if err == nil {
		t.Error("no error")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
	if _, _, _, err := c.Run(t.Context(), []string{"true"}, nil); !errors.Is(err, ErrConnect) {
		t.Errorf("Run on a dead connection: %v", err)
	}
}

func TestDownloadRefuses(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		dir := t.TempDir()
		if err := syscall.Mkfifo(dir+"/pipe", 0o600); err != nil {
			t.Fatal(err)
		}
		paths := []string{dir, dir + "/none"}
		if fsys == FS(Local{}) { // sshd would wait for the pipe's other end
			paths = append(paths, dir+"/pipe")
		}
		for _, p := range paths {
			if _, err := Download(t.Context(), fsys, p, dir+"/out", 1<<20, nil); err == nil {
				t.Errorf("fetched %s", p)
			}
		}
		writeFile(t, dir+"/x", strings.Repeat("x", 1<<20))
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Download(ctx, fsys, dir+"/x", dir+"/out", 1<<20, func(int64) { cancel() })
		if left, _ := filepath.Glob(dir + "/out*"); err == nil || len(left) > 0 {
			t.Errorf("cancelled: %v, left %q", err, left)
		}
	})
}
