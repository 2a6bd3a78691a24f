package boltstore_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/storetest"
)

func openBolt(t *testing.T, dir string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(filepath.Join(dir, "store.db"), boltstore.MasterKey{1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBoltConforms(t *testing.T) {
	t.Parallel()
	storetest.TestStore(t, func(t *testing.T, dir string) storetest.Store { return openBolt(t, dir) })
}

func TestBoltWrongMasterKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := openBolt(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	s, err := boltstore.Open(filepath.Join(dir, "store.db"), boltstore.MasterKey{2})
	if !errors.Is(err, store.ErrSeal) {
		t.Errorf("opened with another master key: %v, %v", s, err)
	}
}

func TestBoltInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openBolt(t, dir)
	defer s.Close()
	if _, err := boltstore.Open(filepath.Join(dir, "store.db"), boltstore.MasterKey{1}); err == nil {
		t.Error("a store was opened twice")
	}
}

// TestBoltSealed looks at the file as somebody who stole it, and moves values
// as somebody who can write it.
func TestBoltSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openBolt(t, dir)
	value := []byte("a value that must not lie in the file")
	err := s.Update(t.Context(), func(w store.Writer) error {
		return errors.Join(w.Put("one", "k", value), w.Put("one", "other", []byte("x")), w.Put("two", "k", []byte("x")))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "store.db"))
	if err != nil || len(raw) == 0 || bytes.Contains(raw, value[:12]) {
		t.Errorf("the file holds a value in plain (%v)", err)
	}
	moveValues(t, filepath.Join(dir, "store.db"))
	s = openBolt(t, dir)
	defer s.Close()
	for _, at := range [][2]string{{"one", "other"}, {"two", "k"}, {"one", "flipped"}, {"one", "short"}} {
		err := s.View(t.Context(), func(r store.Reader) error {
			_, err := r.Get(at[0], at[1])
			return err
		})
		if !errors.Is(err, store.ErrSeal) {
			t.Errorf("value moved or altered at %q: %v", at, err)
		}
	}
	err = s.View(t.Context(), func(r store.Reader) error {
		return r.Each("one", "o", func(string, []byte) error { return nil })
	})
	if !errors.Is(err, store.ErrSeal) {
		t.Errorf("Each over a moved value: %v", err)
	}
}

func moveValues(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		one, two := tx.Bucket([]byte("one")), tx.Bucket([]byte("two"))
		v := bytes.Clone(one.Get([]byte("k")))
		flipped := bytes.Clone(v)
		flipped[len(flipped)-1] ^= 1
		return errors.Join(one.Put([]byte("other"), v), two.Put([]byte("k"), v),
			one.Put([]byte("flipped"), flipped), one.Put([]byte("short"), v[:5]))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestLoadMasterKey(t *testing.T) {
	t.Parallel()
	good := hex.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for name, c := range map[string]struct {
		body string
		mode os.FileMode
		ok   bool
	}{
		"good": {good + "\n", 0o600, true}, "read-only": {good, 0o400, true}, "group readable": {good, 0o640, false},
		"world readable": {good, 0o604, false}, "short": {good[:62], 0o600, false}, "long": {good + "00", 0o600, false},
		"no hex": {"zz" + good[2:], 0o600, false}, "empty": {"", 0o600, false},
	} {
		p := filepath.Join(t.TempDir(), "master.key")
		if err := os.WriteFile(p, []byte(c.body), c.mode); err != nil {
			t.Fatal(err)
		}
		k, err := boltstore.LoadMasterKey(p)
		if (err == nil) != c.ok || c.ok && k[31] != 7 {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(c.body) > 8 && bytes.Contains([]byte(err.Error()), []byte(c.body[:8])) {
			t.Errorf("%s: the error repeats the key", name)
		}
	}
	if _, err := boltstore.LoadMasterKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// TestDamagedFile: a file that was altered or cut is said to be damaged; nothing panics.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), boltstore.FileName)
	s, err := boltstore.Open(path, boltstore.MasterKey{1})
	if err != nil {
		t.Fatal(err)
	}
	put := func(s *boltstore.Store) error {
		return s.Update(t.Context(), func(w store.Writer) error { return w.Put("secrets", "volume", make([]byte, 5000)) })
	}
	if err := errors.Join(put(s), put(s), s.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	try := func(what string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := boltstore.Open(path, boltstore.MasterKey{1})
		if err == nil {
			err = errors.Join(put(s), put(s))
			if again := put(s); errors.Is(err, store.ErrDamaged) && !errors.Is(again, store.ErrDamaged) {
				t.Errorf("%s: it is written after that: %v", what, again)
			}
			s.Close()
		}
		if errors.Is(err, store.ErrDamaged) {
			seen++
		}
	}
	try("cut", whole[:5000])
	for page := range 5 {
		for _, at := range []int{8, 16} {
			bad := bytes.Clone(whole)
			bad[page*4096+at] ^= 0x58
			try(fmt.Sprintf("page %d, byte %d", page, at), bad)
		}
	}
	if seen < 2 {
		t.Errorf("only %d damages were found", seen)
	}
}
