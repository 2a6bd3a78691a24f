package slotstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/storetest"
)

// closing closes the records after the key store.
type closing struct {
	store.KeyStoreCloser
	records io.Closer
}

func (c closing) Close() error { return errors.Join(c.KeyStoreCloser.Close(), c.records.Close()) }

// try opens the keys in dir/keys of the records in dir/records.
func try(t *testing.T, dir string, master boltstore.MasterKey) (store.KeyStoreCloser, error) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir+"/records", 0o700), os.MkdirAll(dir+"/keys", 0o700)); err != nil {
		t.Fatal(err)
	}
	records, err := boltstore.Open(dir+"/records/store.db", master)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := slotstore.Open(t.Context(), records.Home(nil), store.Parameters{"file": fileOf(dir)})
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	return closing{keys, records}, nil
}

func fileOf(dir string) string { return filepath.Join(dir, "keys", slotstore.FileName) }

func open(t *testing.T, dir string) store.KeyStoreCloser {
	t.Helper()
	s, err := try(t, dir, boltstore.MasterKey{1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeIt(t *testing.T, s io.Closer) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func TestConforms(t *testing.T) {
	t.Parallel()
	storetest.TestKeyStore(t, func(t *testing.T, dir string) store.KeyStoreCloser {
		s, err := try(t, filepath.Dir(dir), boltstore.MasterKey{1})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil { // what the test looks at is the key store's directory
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Dir(dir)+"/keys", dir); err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// offset and size of slots, as documented.
func slot(n int) (from, to int) { return 4096 + 128*n, 4096 + 128*(n+1) }

// TestWrongFiles puts what does not belong there in the place of the file.
func TestWrongFiles(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		s := open(t, d)
		if err := s.PutKey(t.Context(), id(1), key(1)); err != nil {
			t.Fatal(err)
		}
		closeIt(t, s)
	}
	path := fileOf(dir)
	good := read(t, path)
	for name, c := range map[string]struct {
		change func() error
		want   string
	}{
		"missing":   {func() error { return os.Remove(path) }, "the file is missing"},
		"another's": {func() error { return os.WriteFile(path, read(t, fileOf(other)), 0o600) }, "another store"},
		"empty":     {func() error { return os.Truncate(path, 0) }, "the file is damaged: it ends early"},
		"cut":       {func() error { return os.Truncate(path, 4095) }, "the file is damaged: it ends early"},
		"another magic": {func() error { return os.WriteFile(path, append([]byte("x"), good[1:]...), 0o600) },
			"does not begin as a file of key slots"},
		"a pipe":   {func() error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }, "regular"},
		"readable": {func() error { return os.Chmod(path, 0o640) }, "can be read"},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		if _, err := try(t, dir, boltstore.MasterKey{1}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ...%s", name, err, c.want)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		write(t, path, good)
	}
	s := open(t, dir)
	if got, err := s.Key(t.Context(), id(1)); err != nil || !bytes.Equal(got, key(1)) {
		t.Errorf("control: %v", err)
	}
	closeIt(t, s)
	if err := os.RemoveAll(dir + "/records"); err != nil { // as a first start
		t.Fatal(err)
	}
	if _, err := try(t, dir, boltstore.MasterKey{1}); err == nil || !strings.Contains(err.Error(), "the store knows of none") {
		t.Errorf("keys without their records: %v", err)
	}
}

// TestFirstStartCutShort dies between making the file and naming it.
func TestFirstStartCutShort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closeIt(t, open(t, dir))
	if err := os.RemoveAll(dir + "/records"); err != nil {
		t.Fatal(err)
	}
	if _, err := try(t, dir, boltstore.MasterKey{2}); !errors.Is(err, store.ErrSeal) {
		t.Errorf("another master key: %v", err)
	}
	if err := os.RemoveAll(dir + "/records"); err != nil {
		t.Fatal(err)
	}
	closeIt(t, open(t, dir))
	closeIt(t, open(t, dir))
}

func TestInUse(t *testing.T) {
	t.Parallel()
	dir, second := t.TempDir(), t.TempDir()
	s := open(t, dir)
	if err := errors.Join(os.MkdirAll(second+"/keys", 0o700), os.Link(fileOf(dir), fileOf(second))); err != nil {
		t.Fatal(err)
	}
	if _, err := try(t, second, boltstore.MasterKey{1}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	closeIt(t, s)
}

// TestAlteredSlots moves, flips and copies slots: each opens in its own place only,
// and what does not open is wiped, so that no part of a key is left of it.
func TestAlteredSlots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	for n := range 6 {
		if err := s.PutKey(t.Context(), id(n), key(byte(n))); err != nil {
			t.Fatal(err)
		}
	}
	closeIt(t, s)
	b := read(t, fileOf(dir))
	at := map[int]int{} // volume's slot
	for n := range 512 {
		if from, to := slot(n); !bytes.Equal(b[from:to], make([]byte, 128)) {
			at[int(b[from+15])] = n
		}
	}
	part := func(v int) []byte { from, to := slot(at[v]); return b[from:to] }
	free, _ := slot(100)
	copy(b[free:], part(0))                       // twice: the copy does not open
	part(1)[40] ^= 1                              // a flipped bit of the key
	part(2)[20] ^= 1                              // of the nonce
	clear(part(3)[64:])                           // torn
	copy(part(4)[:16], part(5)[:16])              // another volume's key
	b = append(b, bytes.Repeat([]byte{7}, 60)...) // growing was cut short
	write(t, fileOf(dir), b)
	s = open(t, dir)
	for n := range 6 {
		got, err := s.Key(t.Context(), id(n))
		if n == 0 || n == 5 {
			if err != nil || !bytes.Equal(got, key(byte(n))) {
				t.Errorf("control: volume %d: %v", n, err)
			}
			continue
		}
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("volume %d: %v", n, err)
		}
		if err := s.PutKey(t.Context(), id(n), key(9)); err != nil {
			t.Errorf("volume %d, again: %v", n, err)
		}
	}
	closeIt(t, s)
	now := read(t, fileOf(dir))
	for v := 1; v < 5; v++ {
		if bytes.Contains(now, part(v)[28:60]) {
			t.Errorf("the altered slot of volume %d is there still", v)
		}
	}
}

// TestReuse puts and destroys more keys than the file has slots: it does not grow,
// and no slot's bytes come again.
func TestReuse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	seen := map[string]bool{}
	for n := range 600 {
		err := errors.Join(s.PutKey(t.Context(), id(1), key(1)))
		if err != nil {
			t.Fatal(err)
		}
		if n%200 == 0 {
			b := read(t, fileOf(dir))
			i := bytes.Index(b[4096:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
			if sealed := string(b[4096+i+16 : 4096+i+76]); seen[sealed] {
				t.Error("a nonce came twice")
			} else {
				seen[sealed] = true
			}
		}
		if err := s.DestroyKey(t.Context(), id(1)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 513 {
		if err := s.PutKey(t.Context(), id(n), key(1)); err != nil {
			t.Fatal(err)
		}
	}
	closeIt(t, s)
	st, err := os.Stat(fileOf(dir))
	if err != nil || st.Size() != 4096+2*512*128 || st.Mode().Perm() != 0o600 {
		t.Errorf("513 keys at most are in a file of %d bytes (%v)", st.Size(), err)
	}
}

// TestFullDisk has no room for more slots: what is there is not harmed, what
// there is room for still goes in, and the rest does once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/keys", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", dir+"/keys", "tmpfs", 0, "size=100k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir+"/keys", syscall.MNT_DETACH) })
	s := open(t, dir)
	n := 0
	var err error
	for ; err == nil && n < 2000; n++ {
		err = s.PutKey(t.Context(), id(n), key(1))
	}
	n--
	if !errors.Is(err, syscall.ENOSPC) || n != 512 {
		t.Fatalf("after %d keys: %v", n, err)
	}
	if err := s.DestroyKey(t.Context(), id(3)); err != nil {
		t.Errorf("a key is destroyed on a full disk: %v", err)
	}
	if err := s.PutKey(t.Context(), id(n), key(2)); err != nil {
		t.Errorf("into the slot that is free: %v", err)
	}
	if err := syscall.Mount("small", dir+"/keys", "tmpfs", syscall.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutKey(t.Context(), id(n+1), key(3)); err != nil {
		t.Errorf("once there is room: %v", err)
	}
	closeIt(t, s)
	s = open(t, dir)
	defer s.Close()
	for v, want := range map[int]byte{0: 1, n - 1: 1, n: 2, n + 1: 3} {
		if got, err := s.Key(t.Context(), id(v)); err != nil || !bytes.Equal(got, key(want)) {
			t.Errorf("key %d: %v", v, err)
		}
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]store.Parameters{"unknown": {"directory": "/x"}, "relative": {"file": "x"}} {
		if _, err := slotstore.Open(t.Context(), store.Home{}, p); !errors.Is(err, store.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInPlace knows this machine's memory file system, and finds that it cannot look.
func TestInPlace(t *testing.T) {
	t.Parallel()
	if fs, ok := slotstore.InPlace("/dev/shm"); !ok {
		t.Errorf("tmpfs is taken for %s", fs)
	}
	if _, ok := slotstore.InPlace(filepath.Join(t.TempDir(), "none", "x")); ok {
		t.Error("a directory that does not exist writes in place")
	}
}
