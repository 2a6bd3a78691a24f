package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// sealedValue reads a value of a closed store's file as it lies there.
func sealedValue(t *testing.T, path, bucket, key string) (v []byte) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bbolt.Tx) error { v = bytes.Clone(tx.Bucket([]byte(bucket)).Get([]byte(key))); return nil })
	if err != nil || v == nil {
		t.Fatal("no such value", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestScrub deletes and replaces records: their bytes are in the file still, and
// gone after a scrub.
func TestScrub(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	put := func(s *boltstore.Store, key, value string) {
		t.Helper()
		if err := s.Update(t.Context(), func(w store.Writer) error { return w.Put("b", key, []byte(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	s := openBolt(t, dir)
	put(s, "deleted", strings.Repeat("d", 9000))
	put(s, "replaced", strings.Repeat("r", 50))
	put(s, "kept", "k")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	former := [][]byte{sealedValue(t, path, "b", "deleted"), sealedValue(t, path, "b", "replaced")}
	s = openBolt(t, dir)
	defer s.Close()
	put(s, "replaced", "new")
	if err := s.Update(t.Context(), func(w store.Writer) error { return w.Delete("b", "deleted") }); err != nil {
		t.Fatal(err)
	}
	left := func() (n int) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range former {
			for i := 0; i+16 <= len(v); i += 16 {
				if bytes.Contains(raw, v[i:i+16]) {
					n++
				}
			}
		}
		return n
	}
	if left() == 0 {
		t.Error("control: bbolt leaves nothing in free pages")
	}
	if err := s.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := left(); n > 0 {
		t.Errorf("%d pieces of former values are in the file", n)
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		for key, want := range map[string]string{"kept": "k", "replaced": "new"} {
			if v, err := r.Get("b", key); err != nil || string(v) != want {
				t.Errorf("%s is %q, %v", key, v, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestScrubAtWork scrubs while others read and write, and finds the file sound.
func TestScrubAtWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openBolt(t, dir)
	const writers, rounds, keys = 3, 40, 30
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for range rounds {
				err := s.Update(t.Context(), func(tx store.Writer) error {
					for range 5 {
						k := fmt.Sprintf("%d/%d", w, r.IntN(keys))
						if r.IntN(3) == 0 {
							if err := tx.Delete("b", k); err != nil {
								return err
							}
							continue
						}
						if err := tx.Put("b", k, bytes.Repeat([]byte(k), r.IntN(3000))); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				err := s.View(t.Context(), func(r store.Reader) error {
					return r.Each("b", "", func(k string, v []byte) error {
						if len(bytes.ReplaceAll(v, []byte(k), nil)) > 0 {
							t.Errorf("the value of %s is another's", k)
						}
						return nil
					})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range rounds {
			if err := s.Scrub(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "store.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestScrubKeepsNobodyWaiting: while somebody reads for long, a scrub that wants its turn keeps no other reader or writer waiting.
func TestScrubKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := openBolt(t, t.TempDir())
	scrubbed := make(chan error, 1)
	err := s.View(t.Context(), func(store.Reader) error {
		go func() { scrubbed <- s.Scrub(t.Context()) }()
		for range 100 { // some of them after the scrub has begun to want its turn
			err := errors.Join(s.View(t.Context(), func(store.Reader) error { return nil }),
				s.Update(t.Context(), func(w store.Writer) error { return w.Put("b", "k", []byte("v")) }))
			if err != nil {
				return err
			}
		}
		select {
		case err := <-scrubbed:
			return fmt.Errorf("scrubbed while somebody reads: %w", err)
		default:
			return nil
		}
	})
	if err := errors.Join(err, <-scrubbed); err != nil {
		t.Error(err)
	}
}
