package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestVerifySegments verifies a volume of several segments, with damage on both
// sides of their borders.
func TestVerifySegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int64{"a": 10, "b": 70 << 20, "c": 60 << 20, "d": 5000} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		must(t, errors.Join(f.Truncate(size), f.Close()))
	}
	s, b := sealBytes(t, dir)
	if len(s.Segments) != 3 || s.Segments[1] != Digest(sha256.Sum256(b[SegmentSize:2*SegmentSize])) {
		t.Fatalf("%d segments, or a wrong one", len(s.Segments))
	}
	r := openBytes(t, b, s.Key)
	var progress atomic.Int64
	rep, err := r.Verify(context.Background(), VerifyOptions{
		Checksum: s.Checksum,
		Progress: func(done, total int64) { progress.Store(max(progress.Load(), done)) },
	})
	must(t, err)
	if rep.Checksum != s.Checksum || rep.Digest != s.Digest || rep.ID != s.ID || rep.PlainBytes != s.PlainBytes ||
		rep.Entries != 4 || len(rep.Damaged) != 0 || progress.Load() == 0 {
		t.Errorf("%+v, progress %d", rep, progress.Load())
	}
	node := func(name string) node { n, _ := r.Lookup(0, name); return r.t.nodes[n] }
	bEnd, cStart := node("b").at+cipherSize(70<<20)-1, node("c").at+headerSize
	for _, at := range [][]int64{
		{node("a").at, SegmentSize - 1, 2*SegmentSize - 1},
		{SegmentSize, 2 * SegmentSize, node("d").at + 5000},
		{bEnd, cStart},
	} {
		for _, i := range at {
			b[i] ^= 4
		}
		rep, err := r.Verify(context.Background(), VerifyOptions{Checksum: s.Checksum})
		if !errors.Is(err, ErrBlock) || len(rep.Damaged) != len(at) || rep.Checksum == s.Checksum {
			t.Errorf("bytes %d altered: %v, %v", at, err, rep.Damaged)
		}
		for _, i := range at {
			b[i] ^= 4
		}
	}
}

// TestVerifyChecksum: what someone with the key has altered, and what lies
// outside the content, is found by the checksum alone.
func TestVerifyChecksum(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	r := openBytes(t, b, s.Key)
	dir, _ := r.Lookup(0, "dir")
	i, _ := r.Lookup(dir, "twin-1")
	n := r.t.nodes[i]
	id := r.codec.newIDMaker().id(i)
	var aad additional
	copy(b[n.at+headerSize:], r.codec.content.Seal(make([]byte, nonceSize), make([]byte, nonceSize), make([]byte, plainBlock), aad.set(0, id)))
	if rep, err := r.Verify(context.Background(), VerifyOptions{}); err != nil || len(rep.Damaged) != 0 {
		t.Fatalf("the forged block was not a good one: %v", err)
	}
	if _, err := r.Verify(context.Background(), VerifyOptions{Checksum: s.Checksum}); !errors.Is(err, ErrChecksum) ||
		!errors.Is(err, ErrIntegrity) {
		t.Errorf("got %v", err)
	}
}
