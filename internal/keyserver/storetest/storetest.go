// Package storetest is the conformance test of the key service's stores.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// Store is a store.Store that can be closed.
type Store interface {
	store.Store
	io.Closer
}

// TestStore runs the conformance test of record stores. open opens the store
// that belongs to dir, empty at first; it is opened again after Close.
func TestStore(t *testing.T, open func(t *testing.T, dir string) Store) {
	for name, f := range map[string]func(*testing.T, Store, func() Store){
		"reads what was put": getPut, "each in order": each, "failed update leaves nothing": atomic,
		"panic leaves nothing": panics, "view is a snapshot": snapshot, "survives reopening": durable,
		"concurrent updates are serial": serial, "ended context changes nothing": ended, "values are copies": copies,
		"changes are told": changes, "digests tell values": digests,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir)
			t.Cleanup(func() { s.Close() })
			f(t, s, func() Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, dir)
				return s
			})
		})
	}
}

func update(t *testing.T, s store.Store, fn func(store.Writer) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// get returns a record, or "none".
func get(t *testing.T, s store.Store, bucket, key string) string {
	t.Helper()
	var v []byte
	err := s.View(t.Context(), func(r store.Reader) (err error) {
		v, err = r.Get(bucket, key)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func want(t *testing.T, s store.Store, bucket, key, value string) {
	t.Helper()
	if got := get(t, s, bucket, key); got != value {
		t.Errorf("%s/%s is %q, want %q", bucket, key, got, value)
	}
}

func getPut(t *testing.T, s Store, _ func() Store) {
	want(t, s, "b", "k", "none")
	update(t, s, func(w store.Writer) error {
		if err := w.Put("b", "k", []byte("one")); err != nil {
			return err
		}
		if v, err := w.Get("b", "k"); err != nil || string(v) != "one" {
			t.Errorf("Get within Update gives %q, %v", v, err)
		}
		return errors.Join(w.Put("c", "k", nil), w.Delete("b", "absent"), w.Delete("absent", "absent"))
	})
	want(t, s, "b", "k", "one")
	want(t, s, "c", "k", "")
	want(t, s, "c", "other", "none")
	update(t, s, func(w store.Writer) error { return errors.Join(w.Put("b", "k", []byte("two")), w.Delete("c", "k")) })
	want(t, s, "b", "k", "two")
	want(t, s, "c", "k", "none")
}

func each(t *testing.T, s Store, _ func() Store) {
	update(t, s, func(w store.Writer) error {
		var errs []error
		for _, k := range []string{"a/2", "b/1", "a/1", "a", "a/3"} {
			errs = append(errs, w.Put("list", k, []byte("v"+k)))
		}
		return errors.Join(errs...)
	})
	collect := func(prefix, after string, stop int) (keys []string, err error) {
		err = s.View(t.Context(), func(r store.Reader) error {
			return r.EachAfter("list", prefix, after, func(k string, v []byte) error {
				if string(v) != "v"+k {
					t.Errorf("value of %s is %q", k, v)
				}
				if keys = append(keys, k); len(keys) == stop {
					return io.ErrShortBuffer
				}
				return nil
			})
		})
		return keys, err
	}
	if got, err := collect("a/", "", 0); err != nil || !slices.Equal(got, []string{"a/1", "a/2", "a/3"}) {
		t.Errorf("Each gives %q, %v", got, err)
	}
	for after, want := range map[string][]string{
		"a": {"a/1", "a/2", "a/3"}, "a/1": {"a/2", "a/3"}, "a/11": {"a/2", "a/3"}, "a/3": nil, "b": nil,
	} {
		if got, err := collect("a/", after, 0); err != nil || !slices.Equal(got, want) {
			t.Errorf("Each after %s gives %q, %v", after, got, err)
		}
	}
	if got, err := collect("", "", 2); !errors.Is(err, io.ErrShortBuffer) || !slices.Equal(got, []string{"a", "a/1"}) {
		t.Errorf("Each that is stopped gives %q, %v", got, err)
	}
	if got, err := collect("z", "", 0); err != nil || got != nil {
		t.Errorf("Each over nothing gives %q, %v", got, err)
	}
}

func atomic(t *testing.T, s Store, _ func() Store) {
	update(t, s, func(w store.Writer) error { return w.Put("b", "k", []byte("old")) })
	err := s.Update(t.Context(), func(w store.Writer) error {
		return errors.Join(w.Put("b", "k", []byte("new")), w.Put("n", "k", []byte("new")), io.ErrClosedPipe)
	})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Update returns %v, not its function's error", err)
	}
	want(t, s, "b", "k", "old")
	want(t, s, "n", "k", "none")
}

func panics(t *testing.T, s Store, _ func() Store) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		s.Update(t.Context(), func(w store.Writer) error {
			if err := w.Put("b", "k", []byte("new")); err != nil {
				t.Error(err)
			}
			panic("in the midst")
		})
	}()
	want(t, s, "b", "k", "none")
	update(t, s, func(w store.Writer) error { return w.Put("b", "k", []byte("later")) })
	want(t, s, "b", "k", "later")
}

func snapshot(t *testing.T, s Store, _ func() Store) {
	update(t, s, func(w store.Writer) error { return w.Put("b", "k", []byte("old")) })
	err := s.View(t.Context(), func(r store.Reader) error {
		done := make(chan error)
		go func() {
			done <- s.Update(context.Background(), func(w store.Writer) error { return w.Put("b", "k", []byte("new")) })
		}()
		if err := <-done; err != nil {
			return err
		}
		if v, err := r.Get("b", "k"); err != nil || string(v) != "old" {
			t.Errorf("a view sees a later update: %q, %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "b", "k", "new")
}

func durable(t *testing.T, s Store, reopen func() Store) {
	update(t, s, func(w store.Writer) error { return w.Put("b", "k", []byte("kept")) })
	want(t, reopen(), "b", "k", "kept")
}

func serial(t *testing.T, s Store, _ func() Store) {
	const workers, rounds = 10, 5
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				err := s.Update(context.Background(), func(w store.Writer) error {
					v, err := w.Get("n", "count")
					if err != nil && !errors.Is(err, store.ErrNotFound) {
						return err
					}
					n, _ := strconv.Atoi(string(v)) // nothing is 0
					return w.Put("n", "count", []byte(strconv.Itoa(n+1)))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want(t, s, "n", "count", strconv.Itoa(workers*rounds))
}

func ended(t *testing.T, s Store, _ func() Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Update(ctx, func(w store.Writer) error { return w.Put("b", "k", []byte("v")) }); !errors.Is(err, context.Canceled) {
		t.Errorf("Update under an ended context: %v", err)
	}
	if err := s.View(ctx, func(store.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("View under an ended context: %v", err)
	}
	want(t, s, "b", "k", "none")
}

func copies(t *testing.T, s Store, _ func() Store) {
	v := []byte("value")
	update(t, s, func(w store.Writer) error {
		err := w.Put("b", "k", v)
		clear(v)
		return err
	})
	want(t, s, "b", "k", "value")
	err := s.View(t.Context(), func(r store.Reader) error {
		got, err := r.Get("b", "k")
		clear(got)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "b", "k", "value")
}

// digestsOf returns the digests of all records, and fails if they are out of order.
func digestsOf(t *testing.T, s store.Store) map[[2]string]store.Digest {
	t.Helper()
	out := map[[2]string]store.Digest{}
	var last [2]string
	err := s.View(t.Context(), func(r store.Reader) error {
		return r.Digests(func(bucket, key string, kept store.Digest) error {
			at := [2]string{bucket, key}
			if len(out) > 0 && slices.Compare(last[:], at[:]) >= 0 {
				t.Errorf("%q comes after %q", at, last)
			}
			out[at], last = kept, at
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// changes are those that Put and Delete made, with the digests that the records
// have before and afterwards.
func changes(t *testing.T, s Store, reopen func() Store) {
	update(t, s, func(w store.Writer) error {
		return errors.Join(w.Put("b", "old", []byte("1")), w.Put("a", "gone", nil))
	})
	before := digestsOf(t, s)
	var told []store.Change
	update(t, s, func(w store.Writer) error {
		if got := w.Changes(); len(got) != 0 {
			t.Errorf("changes of an earlier update: %v", got)
		}
		err := errors.Join(w.Put("b", "old", []byte("2")), w.Put("b", "old", []byte("3")), w.Delete("a", "gone"),
			w.Delete("a", "absent"), w.Delete("absent", "absent"), w.Put("c", "new", []byte("4")))
		told = slices.Clone(w.Changes())
		return err
	})
	s = reopen()
	after := digestsOf(t, s)
	old, gone, added := [2]string{"b", "old"}, [2]string{"a", "gone"}, [2]string{"c", "new"}
	if len(told) != 4 {
		t.Fatalf("told are %v", told)
	}
	want := []store.Change{{Bucket: "b", Key: "old", Was: before[old], Now: told[1].Was},
		{Bucket: "b", Key: "old", Was: told[0].Now, Now: after[old]}, {Bucket: "a", Key: "gone", Was: before[gone]},
		{Bucket: "c", Key: "new", Now: after[added]}}
	if !slices.Equal(told, want) || before[old] == after[old] || len(after) != len(before) {
		t.Errorf("told are %v, want %v", told, want)
	}
	err := s.Update(t.Context(), func(w store.Writer) error { return errors.Join(w.Put("b", "old", nil), io.ErrClosedPipe) })
	if now := digestsOf(t, s); !errors.Is(err, io.ErrClosedPipe) || !maps.Equal(now, after) {
		t.Errorf("after an update that failed (%v): %v, want %v", err, now, after)
	}
}

// digests differ where values or their places do.
func digests(t *testing.T, s Store, _ func() Store) {
	update(t, s, func(w store.Writer) error {
		return errors.Join(w.Put("b", "k", []byte("1")), w.Put("b", "l", []byte("1")), w.Put("c", "k", []byte("1")), w.Put("c", "l", nil))
	})
	seen := map[store.Digest]bool{{}: true}
	for at, d := range digestsOf(t, s) {
		if seen[d] {
			t.Errorf("%q has the digest of another record, or none", at)
		}
		seen[d] = true
	}
	stop := s.View(t.Context(), func(r store.Reader) error {
		return r.Digests(func(string, string, store.Digest) error { return io.ErrShortBuffer })
	})
	if !errors.Is(stop, io.ErrShortBuffer) {
		t.Errorf("Digests that is stopped returns %v", stop)
	}
}

// TestKeyStore runs the conformance test of key stores; open as in TestStore.
func TestKeyStore(t *testing.T, open func(t *testing.T, dir string) store.KeyStoreCloser) {
	dir := t.TempDir()
	s := open(t, dir)
	t.Cleanup(func() { s.Close() })
	ctx := t.Context()
	volume := func(n int) string { return fmt.Sprintf("%032x", n) }
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	check := func(n int, b byte) {
		t.Helper()
		if got, err := s.Key(ctx, volume(n)); err != nil || !bytes.Equal(got, key(b)) {
			t.Errorf("key of volume %d is not the one that was put first: %v", n, err)
		}
	}
	if _, err := s.Key(ctx, volume(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("key that was never put: %v", err)
	}
	for range 2 { // twice is as once
		if err := s.PutKey(ctx, volume(1), key(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutKey(ctx, volume(1), key(2)); !errors.Is(err, store.ErrKeyExists) {
		t.Errorf("another key for a volume: %v", err)
	}
	check(1, 1)
	if k, err := s.Key(ctx, volume(1)); err == nil {
		clear(k)
	}
	check(1, 1)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.PutKey(cancelled, volume(3), key(3)); !errors.Is(err, context.Canceled) {
		t.Errorf("PutKey under an ended context: %v", err)
	}
	oneWins(t, s, volume(2), key)
	first, err := s.Key(ctx, volume(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	check(1, 1)
	check(2, first[0])
	s = testDestroy(t, s, dir, func(s store.KeyStoreCloser) store.KeyStoreCloser {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open(t, dir)
	})
	check(1, 1)
	check(2, first[0])
}

// testDestroy puts keys and destroys them: nothing that came into the store's
// files with them is left there.
func testDestroy(
	t *testing.T, s store.KeyStoreCloser, dir string, reopen func(store.KeyStoreCloser) store.KeyStoreCloser,
) store.KeyStoreCloser {
	t.Helper()
	ctx := t.Context()
	before, doomed := contents(t, dir), []string{fmt.Sprintf("%032x", 77), fmt.Sprintf("%032x", 78)}
	for _, v := range doomed {
		key := make([]byte, 32)
		rand.Read(key) // never fails
		if err := s.PutKey(ctx, v, key); err != nil {
			t.Fatal(err)
		}
	}
	with := contents(t, dir)
	if n := newBytes(before, with, with); n < 2*(32-window+1) {
		t.Errorf("two keys brought %d new bytes into %s: are that the store's files?", n, dir)
	}
	if got := volumes(t, s); !got[doomed[0]] || !got[doomed[1]] {
		t.Errorf("EachKey does not name %q: %v", doomed, got)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.DestroyKey(cancelled, doomed[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("DestroyKey under an ended context: %v", err)
	}
	err := s.EachKey(ctx, func(v string) error { // twice is as once
		if !slices.Contains(doomed, v) {
			return nil
		}
		return errors.Join(s.DestroyKey(ctx, v), s.DestroyKey(ctx, v))
	})
	if err := errors.Join(err, s.DestroyKey(ctx, fmt.Sprintf("%032x", 999))); err != nil {
		t.Errorf("destroy: %v", err)
	}
	for _, when := range []string{"at once", "after reopening"} {
		for _, v := range doomed {
			if _, err := s.Key(ctx, v); !errors.Is(err, store.ErrNotFound) || volumes(t, s)[v] {
				t.Errorf("key of %s, which was destroyed, %s: %v", v, when, err)
			}
		}
		if n := newBytes(before, with, contents(t, dir)); n > 0 {
			t.Errorf("%s, %d bytes that came with the keys are in the files still", when, n)
		}
		s = reopen(s)
	}
	return s
}

func volumes(t *testing.T, s store.KeyStore) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	if err := s.EachKey(t.Context(), func(v string) error { got[v] = true; return nil }); err != nil {
		t.Error(err)
	}
	return got
}

// window is how many bytes in a row tell what was written from chance.
const window = 8

// contents returns the bytes of all files in a directory.
func contents(t *testing.T, dir string) (all [][]byte) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func windows(files [][]byte) map[[window]byte]bool {
	all := map[[window]byte]bool{}
	for _, b := range files {
		for i := 0; i+window <= len(b); i++ {
			all[[window]byte(b[i:])] = true
		}
	}
	return all
}

// newBytes returns how many windows that are in with and were not in before are in
// now.
func newBytes(before, with, now [][]byte) (n int) {
	old, came := windows(before), windows(with)
	for w := range windows(now) {
		if came[w] && !old[w] {
			n++
		}
	}
	return n
}

// oneWins puts many keys for one volume at once.
func oneWins(t *testing.T, s store.KeyStore, volume string, key func(byte) []byte) {
	t.Helper()
	const workers = 10
	var mu sync.Mutex
	var wg sync.WaitGroup
	var won []byte
	for i := range workers {
		wg.Go(func() {
			err := s.PutKey(context.Background(), volume, key(byte(10+i)))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, byte(10+i))
			case !errors.Is(err, store.ErrKeyExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := s.Key(context.Background(), volume)
	if len(won) != 1 || err != nil || !bytes.Equal(got, key(won[0])) {
		t.Errorf("of %d different keys, %d were accepted (%v); want the one that is stored", workers, len(won), err)
	}
}
