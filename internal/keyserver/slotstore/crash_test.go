package slotstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

var errCrash = errors.New("the machine lost its power")

// lossy is a disk that keeps what was synced, and of what was written since any
// part, when the power goes in the midst of some write or sync.
type lossy struct {
	*os.File
	rnd     *rand.Rand
	left    int // writes and syncs before the power goes
	pending []pending
}

type pending struct {
	at  int64
	old []byte // what the disk has
}

func (l *lossy) step() bool { l.left--; return l.left < 0 }

func (l *lossy) WriteAt(b []byte, at int64) (int, error) {
	if l.left < 0 {
		return 0, errCrash
	}
	old := make([]byte, len(b))
	_, _ = l.File.ReadAt(old, at) // zeros beyond the end
	l.pending = append(l.pending, pending{at, old})
	if _, err := l.File.WriteAt(b, at); err != nil {
		return 0, err
	}
	if l.step() {
		return 0, l.crash()
	}
	return len(b), nil
}

func (l *lossy) Sync() error {
	if l.left < 0 || l.step() {
		return l.crash()
	}
	l.pending = nil
	return nil
}

// crash takes back what was not synced, up to some byte of each write.
func (l *lossy) crash() error {
	for _, p := range l.pending {
		from := l.rnd.IntN(len(p.old) + 1)
		if _, err := l.File.WriteAt(p.old[from:], p.at+int64(from)); err != nil {
			return err
		}
	}
	l.pending = nil
	return errCrash
}

// TestCrashes loses the power at every step, over and over: what was acknowledged
// is there, what was destroyed is gone to the last byte, and the rest is whole or
// not there.
func TestCrashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	records, err := boltstore.Open(filepath.Join(dir, "store.db"), boltstore.MasterKey{1})
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[string][]byte{} // by volume: its key; nil where the crash may have come before or after
	for round := range 300 {
		opened, err := Open(t.Context(), records.Home(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := opened.(*Store)
		checkKeys(t, s, want)
		s.f = &lossy{File: s.f.(locked).File, rnd: rnd, left: rnd.IntN(30)}
		for step := 0; ; step++ {
			v := fmt.Sprintf("%032x", rnd.IntN(8))
			old := want[v]
			if rnd.IntN(2) == 0 {
				key := bytes.Repeat([]byte{byte(round), byte(step)}, keyLen/2)
				want[v] = nil
				if err = s.PutKey(t.Context(), v, key); err == nil {
					want[v] = key
				} else if errors.Is(err, store.ErrKeyExists) {
					want[v], err = old, nil
				}
			} else {
				want[v] = nil
				if err = s.DestroyKey(t.Context(), v); err == nil {
					delete(want, v)
				}
			}
			if err != nil {
				break
			}
		}
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		if err := fsx.Unlock(s.f.(*lossy).File); err != nil {
			t.Fatal(err)
		}
	}
}

func checkKeys(t *testing.T, s *Store, want map[string][]byte) {
	t.Helper()
	used := 0
	for n := range 8 {
		v := fmt.Sprintf("%032x", n)
		got, err := s.Key(t.Context(), v)
		key, known := want[v]
		switch {
		case known && key == nil: // either; from now on it is known
			if delete(want, v); err == nil {
				want[v] = got
			}
		case known && !bytes.Equal(got, key), !known && !errors.Is(err, store.ErrNotFound):
			t.Errorf("volume %d: %x, %v; want %x", n, got, err, key)
		}
		if err == nil {
			used++
		}
	}
	b := make([]byte, s.slots*slotSize)
	if _, err := s.f.ReadAt(b, headerSize); err != nil {
		t.Fatal(err)
	}
	for n := range s.slots {
		if !bytes.Equal(b[n*slotSize:(n+1)*slotSize], make([]byte, slotSize)) {
			used--
		}
	}
	if used != 0 {
		t.Errorf("%d slots hold bytes of no key", -used)
	}
}
