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
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bench is a committer over a real store and log.
type bench struct {
	dir   string
	key   ed25519.PrivateKey
	pub   ed25519.PublicKey
	store *Bolt
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
	st, err := OpenBolt(filepath.Join(b.dir, "store.db"), MasterKey{1})
	if err != nil {
		return err
	}
	var head Head
	err = st.View(context.Background(), func(r Reader) error { return getJSON(r, bucketMeta, keyHead, &head) })
	if err != nil && !errors.Is(err, ErrNotFound) {
		return errors.Join(err, st.Close())
	}
	l, _, err := openAudit(b.log(), b.key, head)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	b.store, b.c = st, newCommitter(st, l, "svc", time.Now)
	return nil
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
		if _, err := b.c.do(&Event{Event: "test", Outcome: OutcomeDone, User: "alice"}, nil); err != nil {
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

func TestVerifyAudit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 6)
	b.stop(t)
	raw := b.read(t)
	lines := strings.SplitAfter(string(raw), "\n")[:6]
	n, head, err := VerifyAudit(bytes.NewReader(raw), b.pub)
	if err != nil || n != 6 || head.Seq != 6 {
		t.Fatalf("whole log: %d entries, %+v, %v", n, head, err)
	}
	remembered := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	join := func(l ...string) string { return strings.Join(l, "") }
	other := newBench(t)
	other.write(t, 6)
	other.stop(t)
	for name, tc := range map[string]struct {
		log  string
		want error
	}{
		"untouched":           {string(raw), nil},
		"edited":              {strings.Replace(string(raw), "alice", "mallo", 1), ErrAuditBroken},
		"edited last":         {join(lines[:5]...) + strings.Replace(lines[5], "alice", "mallo", 1), ErrAuditBroken},
		"line removed":        {join(lines[:2]...) + join(lines[3:]...), ErrAuditBroken},
		"first line removed":  {join(lines[1:]...), ErrAuditBroken},
		"reordered":           {join(lines[0], lines[2], lines[1]) + join(lines[3:]...), ErrAuditBroken},
		"line doubled":        {join(lines[:2]...) + join(lines[1:]...), ErrAuditBroken},
		"last line cut short": {string(raw[:len(raw)-5]), ErrAuditBroken},
		"newline lost":        {string(raw[:len(raw)-1]), ErrAuditBroken},
		"blank added":         {" " + string(raw), ErrAuditBroken},
		"field added":         {strings.Replace(string(raw), `{"entry"`, `{"note":1,"entry"`, 1), ErrAuditBroken},
		"signature swapped":   {strings.Replace(string(raw), `"sig":"`, `"sig":"A`, 1), ErrAuditBroken},
		"another's log":       {string(other.read(t)), ErrAuditBroken},
		"cut at the end":      {join(lines[:5]...), ErrAuditHead},
		"empty":               {"", ErrAuditHead},
	} {
		_, _, err := VerifyAudit(strings.NewReader(tc.log), b.pub, remembered)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%s: %v; want %v", name, err, tc.want)
		}
	}
	forged := remembered
	forged.Seq, forged.Hash = 3, strings.Repeat("0", 64)
	if _, _, err := VerifyAudit(bytes.NewReader(raw), b.pub, forged, remembered); !errors.Is(err, ErrAuditHead) {
		t.Errorf("a remembered head that differs inside: %v", err)
	}
}

// TestEveryCut cuts a log at every byte. Whoever has a kept head, or the
// store, finds each; whoever has the log alone, each that is not at the end of
// a line. What follows the store's head, as after a crash, is dropped.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 3) // so that there is a first, one in the middle and a last
	b.stop(t)
	raw := b.read(t)
	n, head, err := VerifyAudit(bytes.NewReader(raw), b.pub)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	kept := keyapi.AuditHead{Seq: head.Seq, Hash: head.Hash}
	for cut := range len(raw) {
		part := raw[:cut]
		atEnd := cut == 0 || part[cut-1] == '\n'
		if _, _, err := VerifyAudit(bytes.NewReader(part), b.pub); errors.Is(err, ErrAuditBroken) == atEnd {
			t.Errorf("cut at %d, the log alone: %v", cut, err)
		}
		if _, _, err := VerifyAudit(bytes.NewReader(part), b.pub, kept); !errors.Is(err, ErrAuditBroken) && !errors.Is(err, ErrAuditHead) {
			t.Errorf("cut at %d, with a kept head: %v", cut, err)
		}
		if _, _, err := checkAudit(bytes.NewReader(part), b.pub, head); !errors.Is(err, ErrAuditRolledBack) {
			t.Errorf("cut at %d, with the store: %v", cut, err)
		}
		tail := append(bytes.Clone(raw), part[:min(cut, bytes.IndexByte(raw, '\n'))]...)
		if a, recovered, err := checkAudit(bytes.NewReader(tail), b.pub, head); err != nil || recovered != 0 || a.good != int64(len(raw)) {
			t.Errorf("%d bytes of a line after the store's head: %d recovered, %v", cut, recovered, err)
		}
	}
}

// TestEveryByte alters each byte of a log: all is found without the store.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write(t, 3)
	b.stop(t)
	raw := b.read(t)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, _, err := VerifyAudit(bytes.NewReader(bad), b.pub); !errors.Is(err, ErrAuditBroken) {
			t.Errorf("byte %d (%q): %v", i, raw[i], err)
		}
	}
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
	kept := b.c.log.head
	b.stop(t)
	if err := errors.Join(os.WriteFile(b.log(), oldLog, 0o600), os.WriteFile(store, oldStore, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatalf("the service cannot know: %v", err)
	}
	b.write(t, 3) // and goes beyond the kept head
	b.stop(t)
	remembered := keyapi.AuditHead{Seq: kept.Seq, Hash: kept.Hash}
	if _, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub, remembered); !errors.Is(err, ErrAuditHead) {
		t.Errorf("with the kept head: %v", err)
	}
	if n, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 5 {
		t.Errorf("control, without it: %d entries, %v", n, err)
	}
}

// TestRewrittenChain is what somebody does who can write the log and compute
// hashes, but does not have the statement key.
func TestRewrittenChain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := renderEvents(auditGenesis(b.pub), stranger, time.Now(), []*Event{{Event: "release", Outcome: OutcomeDone}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := VerifyAudit(bytes.NewReader(forged), b.pub); !errors.Is(err, ErrAuditBroken) {
		t.Errorf("a log signed by a stranger: %v", err)
	}
	b.stop(t)
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
		}, ErrAuditRolledBack},
		"log removed": {func(_ *testing.T, log, _ string, _ []string, _ []byte) error { return os.Remove(log) }, ErrAuditRolledBack},
		"log edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[1] = strings.Replace(l[1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, ErrAuditBroken},
		"last line edited": {func(_ *testing.T, log, _ string, l []string, _ []byte) error {
			l[len(l)-1] = strings.Replace(l[len(l)-1], "alice", "mallo", 1)
			return os.WriteFile(log, []byte(strings.Join(l, "")), 0o600)
		}, ErrAuditRolledBack},
		"store put back": {func(_ *testing.T, _, store string, _ []string, old []byte) error {
			return os.WriteFile(store, old, 0o600)
		}, ErrAuditRolledBack},
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
			if n, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 6 {
				t.Errorf("afterwards: %d entries, %v", n, err)
			}
		})
	}
}

// TestStartAfterCrash has the log one batch ahead of the store, as when the
// service dies between its two writes; forged lines there are found.
func TestStartAfterCrash(t *testing.T) {
	t.Parallel()
	for name, genuine := range map[string]bool{"genuine": true, "forged": false} {
		b := newBench(t)
		b.write(t, 2)
		head := b.c.log.head
		b.stop(t)
		key := b.key
		if !genuine {
			var err error
			if _, key, err = ed25519.GenerateKey(nil); err != nil {
				t.Fatal(err)
			}
		}
		ahead, _, err := renderEvents(head, key, time.Now(), []*Event{{Event: "release", Outcome: OutcomeReleased}, {Event: "release", Outcome: OutcomeReleased}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.log(), append(b.read(t), ahead...), 0o600); err != nil {
			t.Fatal(err)
		}
		l, recovered, err := openAudit(b.log(), b.key, head)
		switch {
		case !genuine && !errors.Is(err, ErrAuditBroken):
			t.Errorf("%s: %v", name, err)
		case genuine && (err != nil || recovered != 2 || l.head.Seq != 4):
			t.Errorf("%s: %d recovered, %v", name, recovered, err)
		}
		if err == nil {
			l.f.Close()
		}
	}
}

// badDisk fails where it is told to.
type badDisk struct {
	auditFile
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
		n, _ := d.auditFile.WriteAt(b[:d.part], off)
		return n, d.write
	}
	return d.auditFile.WriteAt(b, off)
}

func (d *badDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync != nil {
		return d.sync
	}
	return d.auditFile.Sync()
}

func (d *badDisk) Truncate(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.truncate != nil {
		return d.truncate
	}
	return d.auditFile.Truncate(n)
}

// TestFullDisk has the log fail: nothing is changed, the caller hears so, and
// the log goes on afterwards as if nothing had been.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	disk := &badDisk{auditFile: b.c.log.f}
	b.c.log.f = disk // before the first do, which orders it before run's use
	put := func(key string) error {
		_, err := b.c.do(&Event{Event: "test", Outcome: OutcomeDone}, func(w Writer) error { return w.Put("test", key, []byte("x")) })
		return err
	}
	has := func(key string) bool {
		return b.store.View(t.Context(), func(r Reader) error { _, err := r.Get("test", key); return err }) == nil
	}
	if err := put("before"); err != nil || !has("before") {
		t.Fatal(err)
	}
	disk.set(syscall.ENOSPC, nil, nil, 40)
	err := put("full")
	if !errors.Is(err, ErrAuditWrite) || !errors.Is(err, syscall.ENOSPC) || has("full") {
		t.Errorf("full disk: %v, changed: %v", err, has("full"))
	}
	if r := new(Server).asRefusal(err); r.Code != keyapi.CodeUnavailable {
		t.Errorf("the caller is told %s", r.Code)
	}
	disk.set(nil, nil, nil, 0)
	if err := put("after"); err != nil || !has("after") {
		t.Errorf("after the disk was full: %v", err)
	}
	if n, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 2 {
		t.Errorf("log: %d entries, %v; want 2", n, err)
	}
	disk.set(nil, syscall.EIO, syscall.EIO, 0)
	if err := put("lost"); !errors.Is(err, ErrAuditWrite) || has("lost") {
		t.Errorf("sync and undo fail: %v", err)
	}
	disk.set(nil, nil, syscall.EROFS, 0)
	if err := put("later"); !errors.Is(err, ErrAuditWrite) || has("later") {
		t.Errorf("a log of unknown state was written to: %v", err)
	}
	disk.set(nil, nil, nil, 0)
	if err := put("well"); err != nil || !has("well") {
		t.Errorf("after the disk is well: %v", err)
	}
	b.stop(t)
	if n, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || n != 3 {
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
		_, err := b.c.do(&Event{Event: "test", Outcome: OutcomeDone}, func(w Writer) error { return w.Put("test", key, make([]byte, 100<<10)) })
		return err
	}
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = put(strconv.Itoa(n))
	}
	last := strconv.Itoa(n - 1)
	has := b.store.View(t.Context(), func(r Reader) error { _, err := r.Get("test", last); return err })
	if !errors.Is(err, ErrAuditWrite) || !errors.Is(err, syscall.ENOSPC) || n < 3 || !errors.Is(has, ErrNotFound) {
		t.Fatalf("full store: %v after %d, changed: %v", err, n, has)
	}
	if logged, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || int(logged) != n-1 {
		t.Errorf("log: %d entries, %v; want %d", logged, err, n-1)
	}
	if err := syscall.Mount("small", small, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := put(last); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	b.stop(t)
	if logged, _, err := VerifyAudit(bytes.NewReader(b.read(t)), b.pub); err != nil || int(logged) != n {
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
			head, err := b.c.do(&Event{Event: "test", Outcome: OutcomeDone}, func(w Writer) error {
				n := 0
				if err := getJSON(w, "n", "count", &n); err != nil && !errors.Is(err, ErrNotFound) {
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
	if err := b.store.View(t.Context(), func(r Reader) error { return getJSON(r, "n", "count", &n) }); err != nil || n != 50 {
		t.Errorf("%d counted, %v; want 50", n, err)
	}
	b.stop(t)
	raw := b.read(t)
	if got, _, err := VerifyAudit(bytes.NewReader(raw), b.pub); err != nil || got != 100 || bytes.Count(raw, []byte(OutcomeRefused)) != 50 {
		t.Errorf("log: %d entries, %v", got, err)
	}
}
