package keyserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
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
	head := audit.Genesis(b.pub)
	err = st.View(context.Background(), func(r store.Reader) error { return getJSON(r, bucketMeta, keyHead, &head) })
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return errors.Join(err, st.Close())
	}
	var open audit.Opener
	if b.disk != nil {
		open = b.disk.open
	}
	l, _, err := audit.Open(b.log(), open, b.key, head)
	if err == nil {
		err = st.View(context.Background(), func(r store.Reader) error { return l.Start(time.Now(), r) })
	}
	if err != nil {
		return errors.Join(err, st.Close())
	}
	b.store, b.c = st, newCommitter(st, l, "svc", time.Now, &service.Conditions{}, 64<<20)
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
		if _, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone, User: "alice"}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// entries verifies the log and returns how many entries it has, its beginning aside.
func (b *bench) entries(t *testing.T, remembered ...keyapi.AuditHead) (int, audit.Head, error) {
	t.Helper()
	row, err := audit.Verify(b.pub, []io.Reader{bytes.NewReader(b.read(t))}, remembered...)
	return row.Entries - 1, row.Head, err
}

func (b *bench) read(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile(b.log())
	if err != nil {
		t.Fatal(err)
	}
	return raw
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
	if got, _, err := b.entries(t); err != nil || got != 100 ||
		bytes.Count(raw, []byte(audit.OutcomeRefused)) != 50 {
		t.Errorf("log: %d entries, %v", got, err)
	}
}
