package volume

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// links returns the records of a tree of n symbolic links with one target.
func links(n int, target string) raw {
	out := root()
	for i := range n {
		out = append(out, raw{}.named(Symlink, 0, fmt.Sprintf("%07d", i)).attr().text(target)...)
	}
	return out
}

// TestIndexIsBounded: a small file with an index that inflates to hundreds of megabytes is refused before anything of it
// is inflated, unless the caller permits it. Not parallel: it measures.
func TestIndexIsBounded(t *testing.T) {
	const n = 40_000
	v := newVictim(t, "good-one")
	bomb := v.reindexed(links(n, strings.Repeat("t", maxTarget)), n, nil)
	if len(bomb) > 1<<20 {
		t.Fatalf("the file has %d bytes", len(bomb))
	}
	open := func(o OpenOptions, b []byte) (*Reader, error) {
		return o.Open(bytes.NewReader(b), int64(len(b)), v.key)
	}
	before := allocated()
	if _, err := open(OpenOptions{}, bomb); !errors.Is(err, ErrLimit) || errors.Is(err, ErrIntegrity) {
		t.Errorf("%v", err)
	}
	if more := allocated() - before; more > 32<<20 {
		t.Errorf("refusing it took %d bytes", more)
	}
	r, err := open(OpenOptions{MaxIndex: n * (maxTarget + 20)}, bomb)
	if err != nil || r.Entries() != n {
		t.Errorf("with a larger limit: %v", err)
	}
	for name, c := range map[string]struct {
		opt  OpenOptions
		want error
	}{
		"just too small": {OpenOptions{MaxIndex: int64(len(links(10, "t"))) - 1}, ErrLimit},
		"just enough":    {OpenOptions{MaxIndex: int64(len(links(10, "t")))}, nil},
		"any":            {OpenOptions{MaxIndex: AnyIndex}, nil},
	} {
		small := v.reindexed(links(10, "t"), 10, nil)
		if r, err := open(c.opt, small); !errors.Is(err, c.want) || err == nil && r.Entries() != 10 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDefaultMaxIndex: what is refused by size alone, whatever its ratio.
func TestDefaultMaxIndex(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		opt              OpenOptions
		packed, inflated uint64
		ok               bool
	}{
		"small, and packed well":        {OpenOptions{}, 100, mib, true},
		"honest":                        {OpenOptions{}, 40 * mib, 256 * mib, true},
		"a byte too many":               {OpenOptions{}, 40 * mib, 256*mib + 1, false},
		"at the ratio":                  {OpenOptions{}, 500_000, 500_000*indexRatio + mib, true},
		"beyond the ratio":              {OpenOptions{}, 500_000, 500_000*indexRatio + mib + 1, false},
		"packed too large":              {OpenOptions{}, 300 * mib, 5, false},
		"beyond the ratio, by the flag": {OpenOptions{MaxIndex: 512 * mib}, 100, 512 * mib, true},
		"beyond the flag":               {OpenOptions{MaxIndex: 512 * mib}, 100, 512*mib + 1, false},
		"all that there can be":         {OpenOptions{MaxIndex: AnyIndex}, maxPacked, maxInflated, true},
	} {
		h := indexHeader{packed: c.packed, inflated: c.inflated}
		err := errors.Join(c.opt.checkPacked(h), c.opt.checkInflated(h))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExpectedDigest: another volume than the expected one is not inflated.
func TestExpectedDigest(t *testing.T) {
	t.Parallel()
	v := newVictim(t, "good-one")
	r, err := Open(bytes.NewReader(v.b), int64(len(v.b)), v.key)
	must(t, err)
	if _, err := (OpenOptions{Digest: r.Digest()}).Open(bytes.NewReader(v.b), int64(len(v.b)), v.key); err != nil {
		t.Error(err)
	}
	other := v.reindexed(links(1, "t"), 1, nil)
	if _, err := (OpenOptions{Digest: r.Digest()}).Open(bytes.NewReader(other), int64(len(other)), v.key); !errors.Is(err, ErrDigest) {
		t.Errorf("%v", err)
	}
}

// TestIndexMemory: a name takes 44 bytes in memory and its own length, and what an index says beforehand is not held twice
// while it is read. Not parallel: it measures.
func TestIndexMemory(t *testing.T) {
	const n = 200_000
	w, err := newIndexWriter()
	must(t, err)
	_, err = w.add(Entry{Attr: Attr{Type: Dir, Mode: 0o755}}, 0)
	must(t, err)
	for i := range n {
		e := Entry{Name: fmt.Sprintf("file-%07d.txt", i), Attr: Attr{Type: File, Mode: 0o644, Size: 100, Mtime: time.Unix(int64(i), 0)}}
		_, err = w.add(e, int64(i)*tarBlock)
		must(t, err)
	}
	packed, err := w.finish()
	must(t, err)
	h := indexHeader{entries: w.entries, inflated: w.inflated, offset: n * tarBlock}
	before := allocated()
	tree, err := inflate(packed, h, nil)
	must(t, err)
	used := allocated() - before
	want := uint64(n*(32+12) + int(w.inflated)) // texts cannot be longer than the index
	if used > want+16<<20 {                     // the decoder's window and buffers
		t.Errorf("%d bytes for %d names, %d each, instead of %d", used, n, used/n, want/n)
	}
	if len(tree.names) != n {
		t.Errorf("%d names", len(tree.names))
	}
}

// allocated returns how many bytes have ever been allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
