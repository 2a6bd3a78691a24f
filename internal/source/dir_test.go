package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

// sealAndOpen seals src into memory and opens what came of it.
func sealAndOpen(t testing.TB, src volume.Source) (volume.Sealed, *volume.Reader) {
	t.Helper()
	var b bytes.Buffer
	s, err := volume.Seal(context.Background(), &b, src, sealOptions(t))
	must(t, err)
	r, err := volume.Open(bytes.NewReader(b.Bytes()), s.Size, s.Key)
	must(t, err)
	return s, r
}

// actWriter acts at the first write, when most of the input is still unread.
type actWriter struct {
	act  func()
	done bool
}

func (w *actWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.done = true
		w.act()
	}
	return len(p), nil
}

func TestChangingInput(t *testing.T) {
	t.Parallel()
	changes := map[string]func(t *testing.T, dir, file string){
		"overwritten": func(t *testing.T, _, file string) {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("changed"), 100)
			must(t, errors.Join(err, f.Close()))
		},
		"appended to": func(t *testing.T, _, file string) {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.Write([]byte("more"))
			must(t, errors.Join(err, f.Close()))
		},
		"truncated":                 func(t *testing.T, _, file string) { must(t, os.Truncate(file, 5)) },
		"touched":                   func(t *testing.T, _, file string) { must(t, os.Chtimes(file, time.Now(), time.Now())) },
		"made executable":           func(t *testing.T, _, file string) { must(t, os.Chmod(file, 0o755)) },
		"removed":                   func(t *testing.T, _, file string) { must(t, os.Remove(file)) },
		"a file added":              func(t *testing.T, dir, _ string) { must(t, os.WriteFile(filepath.Join(dir, "zz-new"), nil, 0o600)) },
		"a later file removed":      func(t *testing.T, dir, _ string) { must(t, os.Remove(filepath.Join(dir, "z"))) },
		"a later directory removed": func(t *testing.T, dir, _ string) { must(t, os.Remove(filepath.Join(dir, "sub-z"))) },
		"a later link removed":      func(t *testing.T, dir, _ string) { must(t, os.Remove(filepath.Join(dir, "link-z"))) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "large")
			must(t, os.WriteFile(file, make([]byte, 64<<20), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "z"), nil, 0o600))
			must(t, os.Mkdir(filepath.Join(dir, "sub-z"), 0o700))
			must(t, os.Symlink("z", filepath.Join(dir, "link-z")))
			old := time.Unix(1e9, 0) // so that a coarse clock cannot hide a change
			must(t, errors.Join(os.Chtimes(file, old, old), os.Chtimes(dir, old, old)))
			w := &actWriter{act: func() { change(t, dir, file) }}
			opt := sealOptions(t)
			opt.Workers = 1
			_, err := volume.Seal(context.Background(), w, Dir(dir), opt)
			if !errors.Is(err, volume.ErrChanged) {
				t.Errorf("got %v", err)
			}
			if vanished := strings.Contains(err.Error(), "z\" vanished while it was being sealed"); vanished != strings.HasPrefix(name, "a later") {
				t.Errorf("got %v", err)
			}
			if errors.Is(err, volume.ErrIntegrity) {
				t.Error("a changed input is not an integrity failure")
			}
		})
	}
}

func TestSpecialFiles(t *testing.T) {
	t.Parallel()
	make := map[string]func(path string) error{
		"named pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"socket": func(path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		},
		"device": func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o600, 0x103) },
	}
	for kind, mk := range make {
		dir, err := os.MkdirTemp("", "s") // a socket's path must be short
		must(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		path := filepath.Join(dir, "sub", "it")
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		must(t, mk(path))
		opt := sealOptions(t)
		for _, input := range []string{dir, path} {
			_, err = volume.Seal(context.Background(), io.Discard, Dir(input), opt)
			if !errors.Is(err, volume.ErrSpecial) || !strings.Contains(err.Error(), kind) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

func TestSealSingleFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image.sif")
	content := make([]byte, 100_000)
	_, _ = rand.Read(content)
	must(t, os.WriteFile(path, content, 0o640))
	s, r := sealAndOpen(t, Dir(path))
	node, ok := r.Lookup(0, "image.sif")
	if !ok || r.Entries() != 1 || r.Len() != 2 || s.PlainBytes != int64(len(content)) {
		t.Fatalf("found %v, %d entries, %d nodes, %d bytes", ok, r.Entries(), r.Len(), s.PlainBytes)
	}
	got := make([]byte, len(content)+1)
	n, err := r.ReadAt(node, got, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], content) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
