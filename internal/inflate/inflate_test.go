package inflate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func gz(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.Bytes()
}

func zst(s string) []byte {
	e, _ := zstd.NewWriter(nil)
	return e.EncodeAll([]byte(s), nil)
}

// skippable is a frame of zstd that says nothing, as zstd:chunked and pzstd write them.
func skippable(content string) []byte {
	return append([]byte{0x57, 0x2a, 0x4d, 0x18, byte(len(content)), 0, 0, 0}, content...)
}

func TestPieces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		packed []byte
		format Format
		want   string
		err    error
	}{
		"nothing":          {nil, None, "", nil},
		"plain":            {[]byte("plain"), None, "plain", nil},
		"gzip":             {gz("one"), Gzip, "one", nil},
		"gzip, twice":      {append(gz("one"), gz("two")...), Gzip, "onetwo", nil},
		"gzip, empty last": {append(gz("one"), gz("")...), Gzip, "one", nil},
		"gzip, zeros":      {append(gz("one"), 0, 0, 0), Gzip, "one", nil},
		"gzip, garbage":    {append(gz("one"), "garbage"...), Gzip, "one", ErrTrailing},
		"zstd":             {zst("one"), Zstd, "one", nil},
		"zstd, twice":      {append(zst("one"), zst("two")...), Zstd, "onetwo", nil},
		"zstd, skippable":  {append(append(skippable("head"), zst("one")...), skippable("tail")...), Zstd, "one", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if f := Detect(c.packed); f != c.format {
				t.Fatalf("detected as %s, want %s", f, c.format)
			}
			r, free, err := NewReader(bufio.NewReader(bytes.NewReader(c.packed)), c.format)
			if err != nil {
				t.Fatal(err)
			}
			defer free()
			got, err := io.ReadAll(r)
			if string(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for f, packed := range map[Format][]byte{Gzip: gz(strings.Repeat("abc", 1000)), Zstd: zst(strings.Repeat("abc", 1000))} {
		r, free, err := NewReader(bufio.NewReader(bytes.NewReader(packed[:len(packed)-3])), f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v; want that it is cut", f, err)
		}
		free()
	}
}
