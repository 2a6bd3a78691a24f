package volume_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/volume"
)

// indieReadWith is indieRead with the master key instead of an identity.
func indieReadWith(b, key []byte) (v *indieVolume, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			v, err = nil, f
		}
	}()
	return indieOpen(b, indieFooter(b), key), nil
}

// FuzzBothReaders puts any records into an index, as somebody with the key
// could, and reads the volume with this package and with the independent reader:
// both must refuse it, or read the same.
func FuzzBothReaders(f *testing.F) {
	records, entries, reindex, hexKey := volume.Reindexer(f)
	key, err := hex.DecodeString(hexKey)
	if err != nil {
		f.Fatal(err)
	}
	for i, r := range records {
		f.Add(r, entries[i])
	}
	f.Fuzz(func(t *testing.T, records []byte, entries uint32) {
		sealed := reindex(t, records, entries)
		lines, err := volume.ReadLines(sealed, key)
		indie, indieErr := indieReadWith(bytes.Clone(sealed), key)
		if (err == nil) != (indieErr == nil) {
			t.Fatalf("this package says %v, the independent reader %v", err, indieErr)
		}
		if err == nil && strings.Join(lines, "\n") != strings.Join(indie.lines, "\n") {
			t.Errorf("this package reads\n%s\nthe independent reader\n%s", strings.Join(lines, "\n"), strings.Join(indie.lines, "\n"))
		}
	})
}
