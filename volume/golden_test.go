package volume

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// vector describes a golden volume. The key is no secret: it is drawn from a
// fixed seed.
type vector struct {
	Key      string `json:"key"`
	ID       ID     `json:"id"`
	Digest   Digest `json:"digest"`
	Checksum Digest `json:"checksum"`
	Size     int64  `json:"size"`
	Dump     string `json:"dump"`
}

// TestGolden reads volumes sealed by earlier versions of this package, and seals
// the same anew. If only the second fails after a change of the compressor,
// update; if reading fails, the format has changed.
func TestGolden(t *testing.T) {
	t.Parallel()
	one := memSource{entries: []Entry{memDir(0, "")}}
	one.file(0, "image.sif", "a small image\n", 1)
	sources := map[string]Source{
		"empty": memSource{entries: []Entry{memDir(0, "")}},
		"one":   one,
		"tree":  smallTree(),
	}
	for name, src := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", "golden", name+".vol")
			s, sealed := sealFixed(t, src, 7)
			text, err := openAndDump(sealed, s.Key)
			must(t, err)
			fresh := vector{Key: s.Key.Hex(), ID: s.ID, Digest: s.Digest, Checksum: s.Checksum, Size: s.Size, Dump: text}
			if *update {
				b, err := json.MarshalIndent(fresh, "", "  ")
				must(t, err)
				must(t, os.MkdirAll(filepath.Dir(file), 0o755))
				must(t, os.WriteFile(file, sealed, 0o644))
				must(t, os.WriteFile(file+".json", append(b, '\n'), 0o644))
			}
			golden, err := os.ReadFile(file)
			must(t, err)
			b, err := os.ReadFile(file + ".json")
			must(t, err)
			var want vector
			must(t, json.Unmarshal(b, &want))
			checkGolden(t, golden, want)
			if fresh != want || !bytes.Equal(sealed, golden) {
				t.Errorf("sealing gives other bytes than the golden file")
			}
		})
	}
}

func checkGolden(t *testing.T, golden []byte, want vector) {
	t.Helper()
	var raw [KeySize]byte
	must(t, decodeHex(raw[:], want.Key, "key"))
	key, err := KeyFromBytes(raw[:])
	must(t, err)
	text, err := openAndDump(golden, key)
	must(t, err)
	id, digest, err := ReadDigest(bytes.NewReader(golden), int64(len(golden)))
	must(t, err)
	if text != want.Dump || id != want.ID || digest != want.Digest || int64(len(golden)) != want.Size {
		t.Errorf("the golden file reads as %s %s\n%s", id, digest, text)
	}
}

// TestGoldenDirIndex reads an index that an earlier version wrote of the golden
// tree's cipher directory.
func TestGoldenDirIndex(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/golden/tree.vol.json")
	must(t, err)
	var v vector
	must(t, json.Unmarshal(b, &v))
	var raw [KeySize]byte
	must(t, decodeHex(raw[:], v.Key, "key"))
	key, err := KeyFromBytes(raw[:])
	must(t, err)
	sealed, err := os.ReadFile("testdata/golden/tree.vol")
	must(t, err)
	dir := t.TempDir()
	untar(t, sealed, dir)
	cipher, file := filepath.Join(dir, treeName), "testdata/golden/tree.dirindex"
	if *update {
		_, fresh := indexDir(t, cipher, key, DirIndexOptions{})
		must(t, os.WriteFile(file, fresh, 0o644))
		text, err := dump(openIndexed(t, cipher, fresh, key))
		must(t, err)
		must(t, os.WriteFile(file+".txt", []byte(text), 0o644))
	}
	index, err := os.ReadFile(file)
	must(t, err)
	want, err := os.ReadFile(file + ".txt")
	must(t, err)
	if got, err := dump(openIndexed(t, cipher, index, key)); err != nil || got != string(want) {
		t.Errorf("the golden index reads as %v\n%s", err, got)
	}
}
