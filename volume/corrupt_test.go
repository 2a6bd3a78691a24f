package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// each runs f for 0..n-1 on all processors.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}

// recorder notes which bytes are read.
type recorder struct {
	io.ReaderAt
	read []bool
}

func (r recorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	for i := range n {
		r.read[off+int64(i)] = true
	}
	return n, err
}

// TestFlippedBytes: whichever of the bytes that the reader uses is altered, the
// result is an error of a class; the others it never looks at.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "a", "text", 2)
	src.file(0, "b", "", 1)
	src.file(0, "two blocks", strings.Repeat("x", plainBlock+1), 1)
	src.entries = append(src.entries,
		Entry{Name: "link", Attr: Attr{Type: Symlink, Mode: 0o777, Mtime: fixedTime}, Target: "../a"},
		Entry{Name: "hard", IsLink: true, Link: 1})
	s, b := sealFixed(t, src, 1)
	used := recorder{bytes.NewReader(b), make([]bool, len(b))}
	r, err := Open(used, s.Size, s.Key)
	must(t, err)
	_, err = dump(r)
	must(t, err)
	must(t, verifyOther(r, b, s.Checksum))
	each(len(b), func(i int) {
		if !used.read[i] && i%97 != 0 {
			return
		}
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		if used.read[i] {
			if _, err := openAndDump(bad, s.Key); !hasClass(err) {
				t.Errorf("byte %d altered: %v", i, err)
			}
		}
		if i%97 == 0 {
			if err := verifyOther(r, bad, s.Checksum); !errors.Is(err, ErrIntegrity) {
				t.Errorf("byte %d altered: Verify says %v", i, err)
			}
		}
	})
	want := int64(tarBlock) + indexHeaderSize + int64(r.head.packed) + tagSize + cipherSize(4) + cipherSize(plainBlock+1)
	got := int64(0)
	for _, u := range used.read {
		if u {
			got++
		}
	}
	if got != want {
		t.Errorf("the reader uses %d bytes, content, index and footer are %d", got, want)
	}
}

// verifyOther verifies other bytes by r's index against a checksum.
func verifyOther(r *Reader, b []byte, checksum Digest) error {
	other := &Reader{r: bytes.NewReader(b), size: r.size, head: r.head, codec: r.codec, t: r.t}
	other.ids.New = r.ids.New
	_, err := other.Verify(context.Background(), VerifyOptions{Checksum: checksum, Workers: 1})
	return err
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 2)
	each(len(b), func(n int) {
		if _, err := openAndDump(b[:n], s.Key); !hasClass(err) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(b), err)
		}
	})
	if _, err := openAndDump(append(bytes.Clone(b), make([]byte, 512)...), s.Key); !errors.Is(err, ErrFooter) {
		t.Errorf("lengthened: %v", err)
	}
}

// TestMovedContent: ciphertext in another place than the one it was made for.
func TestMovedContent(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 3)
	r := openBytes(t, b, s.Key)
	node := func(name string) node {
		dir, _ := r.Lookup(0, "dir")
		n, ok := r.Lookup(dir, name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		return r.t.nodes[n]
	}
	one, two := node("twin-1"), node("twin-2")
	size := cipherSize(one.size)
	cases := map[string]func(b []byte){
		"files exchanged": func(b []byte) {
			tmp := bytes.Clone(b[one.at : one.at+size])
			copy(b[one.at:], b[two.at:two.at+size])
			copy(b[two.at:], tmp)
		},
		"one file copied over another": func(b []byte) { copy(b[one.at:], b[two.at:two.at+size]) },
		"block zeroed to look like a hole": func(b []byte) {
			clear(b[one.at+headerSize:][:cipherBlock])
		},
		"header zeroed": func(b []byte) { clear(b[one.at:][:headerSize]) },
		"a block of the other file": func(b []byte) {
			copy(b[one.at+headerSize:][:cipherBlock], b[two.at+headerSize:])
		},
		"the last block of the other file": func(b []byte) {
			copy(b[one.at+headerSize+cipherBlock:one.at+size], b[two.at+headerSize+cipherBlock:])
		},
	}
	for name, alter := range cases {
		bad := bytes.Clone(b)
		alter(bad)
		if _, err := openAndDump(bad, s.Key); !errors.Is(err, ErrBlock) || !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOtherIndex: an index of another volume, or of the same key.
func TestOtherIndex(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 4)
	other, ob := sealFixed(t, smallTree(), 5)
	if len(b) != len(ob) {
		t.Fatalf("lengths differ: %d, %d", len(b), len(ob))
	}
	r := openBytes(t, b, s.Key)
	mixed := append(bytes.Clone(b[:r.head.offset]), ob[r.head.offset:]...)
	if _, err := openAndDump(mixed, s.Key); !errors.Is(err, ErrIndex) {
		t.Errorf("another volume's index: %v", err)
	}
	if _, err := openAndDump(b, other.Key); !errors.Is(err, ErrIndex) {
		t.Errorf("another volume's key: %v", err)
	}
	if got, err := openAndDump(mixed, other.Key); !errors.Is(err, ErrBlock) {
		t.Errorf("another volume's content: %v %s", err, got)
	}
	if _, digest, err := ReadDigest(bytes.NewReader(mixed), int64(len(mixed))); err != nil || digest == s.Digest {
		t.Errorf("another volume's index has the same digest (%v)", err)
	}
}
