package keyserver

import (
	"crypto/ed25519"
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// badDisk fails where it is told to.
type badDisk struct {
	mu                    sync.Mutex
	write, sync, truncate error
	part                  int // bytes that a failing write still writes
}

func (d *badDisk) set(write, sync, truncate error, part int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write, d.sync, d.truncate, d.part = write, sync, truncate, part
}

// badFile is a file on a bad disk.
type badFile struct {
	*badDisk
	audit.File
}

func (d *badDisk) open(path string, flag int) (audit.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	return badFile{d, f}, err
}

func (d badFile) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write != nil {
		n, _ := d.File.WriteAt(b[:min(d.part, len(b))], off)
		return n, d.write
	}
	return d.File.WriteAt(b, off)
}

func (d badFile) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync != nil {
		return d.sync
	}
	return d.File.Sync()
}

func (d badFile) Truncate(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.truncate != nil {
		return d.truncate
	}
	return d.File.Truncate(n)
}

// TestFullDisk has the log fail: nothing is changed, the caller hears so, and
// the log goes on afterwards as if nothing had been.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := &badDisk{}
	b := &bench{dir: t.TempDir(), disk: disk}
	b.pub, b.key, _ = ed25519.GenerateKey(nil)
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	put := func(key string) error {
		_, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone},
			func(w store.Writer) error { return w.Put("test", key, []byte("x")) })
		return err
	}
	has := func(key string) bool {
		return b.store.View(t.Context(), func(r store.Reader) error { _, err := r.Get("test", key); return err }) == nil
	}
	if err := put("before"); err != nil || !has("before") {
		t.Fatal(err)
	}
	disk.set(syscall.ENOSPC, nil, nil, 40)
	err := put("full")
	if !errors.Is(err, audit.ErrWrite) || !errors.Is(err, syscall.ENOSPC) || has("full") {
		t.Errorf("full disk: %v, changed: %v", err, has("full"))
	}
	if r := new(Server).asRefusal(err); r.Code != keyapi.CodeUnavailable {
		t.Errorf("the caller is told %s", r.Code)
	}
	disk.set(nil, nil, nil, 0)
	if err := put("after"); err != nil || !has("after") {
		t.Errorf("after the disk was full: %v", err)
	}
	if n, _, err := b.entries(t); err != nil || n != 2 {
		t.Errorf("log: %d entries, %v; want 2", n, err)
	}
	disk.set(nil, syscall.EIO, syscall.EIO, 0)
	if err := put("lost"); !errors.Is(err, audit.ErrWrite) || has("lost") {
		t.Errorf("sync and undo fail: %v", err)
	}
	disk.set(nil, nil, syscall.EROFS, 0)
	if err := put("later"); !errors.Is(err, audit.ErrWrite) || has("later") {
		t.Errorf("a log of unknown state was written to: %v", err)
	}
	disk.set(nil, nil, nil, 0)
	if err := put("well"); err != nil || !has("well") {
		t.Errorf("after the disk is well: %v", err)
	}
	b.stop(t)
	if n, _, err := b.entries(t); err != nil || n != 3 {
		t.Errorf("log: %d entries, %v; want 3", n, err)
	}
	if err := b.start(); err != nil {
		t.Errorf("log and store: %v", err)
	}
	b.stop(t)
}

// TestFullStore has no room under the store alone, on a real file system: what
// the log has got by then is undone, and both go on once there is room.
func TestFullStore(t *testing.T) {
	t.Parallel()
	small := t.TempDir()
	if err := syscall.Mount("small", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	b := &bench{dir: t.TempDir()}
	b.pub, b.key, _ = ed25519.GenerateKey(nil)
	if err := errors.Join(os.Symlink(small+"/store.db", b.dir+"/store.db"), b.start()); err != nil {
		t.Fatal(err)
	}
	put := func(key string) error {
		_, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone},
			func(w store.Writer) error { return w.Put("test", key, make([]byte, 100<<10)) })
		return err
	}
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = put(strconv.Itoa(n))
	}
	last := strconv.Itoa(n - 1)
	has := b.store.View(t.Context(), func(r store.Reader) error { _, err := r.Get("test", last); return err })
	if !errors.Is(err, audit.ErrWrite) || !errors.Is(err, syscall.ENOSPC) || n < 3 || !errors.Is(has, store.ErrNotFound) {
		t.Fatalf("full store: %v after %d, changed: %v", err, n, has)
	}
	if logged, _, err := b.entries(t); err != nil || int(logged) != n-1 {
		t.Errorf("log: %d entries, %v; want %d", logged, err, n-1)
	}
	if err := syscall.Mount("small", small, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := put(last); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	b.stop(t)
	if logged, _, err := b.entries(t); err != nil || int(logged) != n {
		t.Errorf("log: %d entries, %v; want %d", logged, err, n)
	}
	if err := b.start(); err != nil {
		t.Errorf("log and store: %v", err)
	}
	b.stop(t)
}
