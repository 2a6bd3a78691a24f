package slotstore

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// FuzzFile opens files that were altered: a key is had from its own slot only, and
// what does not open is zeros afterwards.
func FuzzFile(f *testing.F) {
	key := bytes.Repeat([]byte{1}, keyLen)
	s, err := newSealer(key, [idLen]byte{2})
	if err != nil {
		f.Fatal(err)
	}
	volume, secret := volumeID{3}, bytes.Repeat([]byte{4}, keyLen)
	whole := append(s.header(), append(make([]byte, slotSize), s.seal(1, volume, secret)...)...)
	f.Add(whole, uint(0))
	f.Add(whole[:len(whole)-1], uint(headerSize+slotSize))
	f.Add(append(whole[:headerSize:headerSize], whole[headerSize+slotSize:]...), uint(3))
	f.Add(whole[:10], uint(0))
	f.Fuzz(func(t *testing.T, b []byte, flip uint) {
		if len(b) > 1<<16 {
			return
		}
		if i := flip % uint(len(b)+1); i < uint(len(b)) {
			b = bytes.Clone(b)
			b[i] ^= 1
		}
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		head, err := checkFile(file, key)
		if err != nil {
			return
		}
		st, err := load(file, head, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for v, n := range st.at {
			if got, err := st.get(v); v != volume || n != 1 || err != nil || !bytes.Equal(got, secret) {
				t.Errorf("slot %d gives volume %x a key, %v", n, v, err)
			}
		}
		if len(st.at) == 0 {
			after := make([]byte, max(len(b)-headerSize, 0)/slotSize*slotSize)
			if _, err := file.ReadAt(after, headerSize); (err != nil && err != io.EOF) || !bytes.Equal(after, make([]byte, len(after))) {
				t.Errorf("what does not open is there still, %v", err)
			}
		}
	})
}
