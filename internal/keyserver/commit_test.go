package keyserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bench is a committer over a real store and log.
type bench struct {
	dir   string
	key   ed25519.PrivateKey
	pub   ed25519.PublicKey
	disk  *badDisk // under the log; nil: a good one
	store *boltstore.Store
	c     *committer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: t.TempDir(), key: key, pub: pub}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) log() string { return filepath.Join(b.dir, "audit.log") }

func (b *bench) start() error {
	st, err := boltstore.Open(filepath.Join(b.dir, "store.db"), boltstore.MasterKey{1})
	if err != nil {
		return err
	}
	var head audit.Head
	err = st.View(context.Background(), func(r store.Reader) error { return getJSON(r, bucketMeta, keyHead, &head) })
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return errors.Join(err, st.Close())
	}
	l, err := b.openLog(head)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	b.store, b.c = st, newCommitter(st, l, "svc", time.Now)
	return nil
}

func (b *bench) openLog(head audit.Head) (*audit.Log, error) {
	if b.disk == nil {
		l, _, err := audit.Open(b.log(), b.key, head)
		return l, err
	}
	f, err := os.OpenFile(b.log(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b.disk.File = f
	l, _, err := audit.Resume(b.disk, b.key, head)
	return l, err
}

func (b *bench) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(b.c.close(), b.store.Close()); err != nil {
		t.Fatal(err)
	}
}

// write makes n entries, each a batch of its own.
func (b *bench) write(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone, User: "alice"}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) read(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile(b.log())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestRolledBackTogether puts log and store back to an older state, both:
// nothing in them shows it, a kept head does.
func TestRolledBackTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 2)
	b.stop(t)
	store := filepath.Join(b.dir, "store.db")
	oldLog := b.read(t)
	oldStore, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	b.write(t, 2)
	b.stop(t)
	_, kept, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(b.log(), oldLog, 0o600), os.WriteFile(store, oldStore, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatalf("the service cannot know: %v", err)
	}
	b.write(t, 3) // and goes beyond the kept head
	b.stop(t)
	remembered := keyapi.AuditHead{Seq: kept.Seq, Hash: kept.Hash}
	if _, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub, remembered); !errors.Is(err, audit.ErrHead) {
		t.Errorf("with the kept head: %v", err)
	}
	if n, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 5 {
		t.Errorf("control, without it: %d entries, %v", n, err)
	}
}

// TestStartAfterTampering starts a service on a log and a store of which one
// was altered or put back.
func TestStartAfterTampering(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(t *testing.T, log, store string, lines []string, oldStore []byte) error
		want   error
	}{
		"control": {func(*testing.T, string, string, []string, []byte) error { return nil }, nil},
		"log cut": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			return os.WriteFile(log, []byte(strings.Join(l[:len(l)-1], "")), 0o600)
		}, audit.ErrRolledBack},
		"log removed": {func(_ *testing.T, log, _ string, _ []string, _ []byte) error { return os.Remove(log) }, audit.ErrRolledBack},
		"log edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[1] = strings.Replace(l[1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, audit.ErrBroken},
		"last line edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[len(l)-1] = strings.Replace(l[len(l)-1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, audit.ErrRolledBack},
		"store put back": {func(_ *testing.T, _, store string, _ []string, old []byte) error {
			return os.WriteFile(store, old, 0o600)
		}, audit.ErrRolledBack},
		"torn line after a crash": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			return os.WriteFile(log, []byte(strings.Join(l, "")+l[0][:20]), 0o600)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.write(t, 2)
			b.stop(t)
			old, err := os.ReadFile(filepath.Join(b.dir, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.start(); err != nil {
				t.Fatal(err)
			}
			b.write(t, 3)
			b.stop(t)
			lines := strings.SplitAfter(string(b.read(t)), "\n")
			lines = lines[:len(lines)-1]
			if err := tc.change(t, b.log(), filepath.Join(b.dir, "store.db"), lines, old); err != nil {
				t.Fatal(err)
			}
			err = b.start()
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Fatalf("start: %v; want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			b.write(t, 1)
			b.stop(t)
			if n, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 6 {
				t.Errorf("afterwards: %d entries, %v", n, err)
			}
		})
	}
}

// badDisk fails where it is told to.
type badDisk struct {
	audit.File
	mu                    sync.Mutex
	write, sync, truncate error
	part                  int // bytes that a failing write still writes
}

func (d *badDisk) set(write, sync, truncate error, part int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write, d.sync, d.truncate, d.part = write, sync, truncate, part
}

func (d *badDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write != nil {
		n, _ := d.File.WriteAt(b[:d.part], off)
		return n, d.write
	}
	return d.File.WriteAt(b, off)
}

func (d *badDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync != nil {
		return d.sync
	}
	return d.File.Sync()
}

func (d *badDisk) Truncate(n int64) error {
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
		_, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone}, func(w store.Writer) error { return w.Put("test", key, []byte("x")) })
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
	if n, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 2 {
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
	if n, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 3 {
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
		_, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone}, func(w store.Writer) error { return w.Put("test", key, make([]byte, 100<<10)) })
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
	if logged, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || int(logged) != n-1 {
		t.Errorf("log: %d entries, %v; want %d", logged, err, n-1)
	}
	if err := syscall.Mount("small", small, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := put(last); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	b.stop(t)
	if logged, _, err := audit.Verify(bytes.NewReader(b.read(t)), b.pub); err != nil || int(logged) != n {
		t.Errorf("log: %d entries, %v; want %d", logged, err, n)
	}
	if err := b.start(); err != nil {
		t.Errorf("log and store: %v", err)
	}
	b.stop(t)
}

// TestBatches makes many entries at once, half of them refused.
func TestBatches(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	no := service.Refuse(keyapi.CodePolicy, "no")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			head, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone}, func(w store.Writer) error {
				n := 0
				if err := getJSON(w, "n", "count", &n); err != nil && !errors.Is(err, store.ErrNotFound) {
					return err
				}
				if err := putJSON(w, "n", "count", n+1); err != nil {
					return err
				}
				if i%2 == 0 {
					return no
				}
				return nil
			})
			if (i%2 == 0) != errors.Is(err, no) {
				t.Errorf("%d: %v", i, err)
			}
			var h keyapi.AuditHead
			if err := manifest.VerifyJWS(manifest.TypeAuditHead, b.pub, head, &h); err != nil || h.Seq == 0 {
				t.Errorf("head: %+v, %v", h, err)
			}
		})
	}
	wg.Wait()
	n := 0
	if err := b.store.View(t.Context(), func(r store.Reader) error { return getJSON(r, "n", "count", &n) }); err != nil || n != 50 {
		t.Errorf("%d counted, %v; want 50", n, err)
	}
	b.stop(t)
	raw := b.read(t)
	if got, _, err := audit.Verify(bytes.NewReader(raw), b.pub); err != nil || got != 100 || bytes.Count(raw, []byte(audit.OutcomeRefused)) != 50 {
		t.Errorf("log: %d entries, %v", got, err)
	}
}
