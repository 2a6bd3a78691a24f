package volume

import (
	"bytes"
	"context"
	"errors"
	"runtime"
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

// TestFlippedBytes: whichever byte is altered, reading gives what was sealed or
// an error of a class, never anything else; and in the content and the index,
// every altered byte is an error.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	want, err := openAndDump(b, s.Key)
	must(t, err)
	covered := make([]bool, len(b))
	r := openBytes(t, b, s.Key)
	for i := range r.t.nodes {
		if n := r.t.nodes[i]; n.typ == File {
			for j := range cipherSize(n.size) {
				covered[n.at+j] = true
			}
		}
	}
	for i := r.head.offset; i < r.head.offset+indexHeaderSize+int64(r.head.packed)+tagSize; i++ {
		covered[i] = true
	}
	for i := int64(len(b)) - footerFromEnd; i < int64(len(b))-tarTrailer; i++ {
		covered[i] = true
	}
	must(t, verifyOther(r, b, s.Checksum))
	each(len(b), func(i int) {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		got, err := openAndDump(bad, s.Key)
		switch {
		case err == nil && (got != want || covered[i]):
			t.Errorf("byte %d altered: not noticed", i)
		case err != nil && !hasClass(err):
			t.Errorf("byte %d altered: an error without a class: %v", i, err)
		case err != nil && !covered[i]:
			t.Errorf("byte %d altered: %v, though the reader does not use it", i, err)
		}
		if err := verifyOther(r, bad, s.Checksum); !errors.Is(err, ErrIntegrity) {
			t.Errorf("byte %d altered: Verify with the checksum does not notice", i)
		}
	})
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
