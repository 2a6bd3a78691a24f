package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// raw builds index records by hand, so that impossible ones can be made.
type raw []byte

func (r raw) num(ns ...uint64) raw {
	for _, n := range ns {
		r = binary.AppendUvarint(r, n)
	}
	return r
}

func (r raw) text(s string) raw { return append(r.num(uint64(len(s))), s...) }

// attr is mode 0644, time 0.
func (r raw) attr() raw { return r.num(0o644, 0, 0) }

func (r raw) named(t Type, parent uint64, name string) raw {
	return append(r, byte(t)).num(parent).text(name)
}

func root() raw { return raw{}.attr() }

func (r raw) file(name string, size, gap uint64) raw {
	return r.named(File, 0, name).attr().num(size, gap)
}

func parseRaw(r raw, entries uint64) (*tree, error) {
	return parseIndex(bytes.NewReader(r), indexHeader{entries: entries, inflated: uint64(len(r)), offset: 1 << 20}, nil)
}

func TestParseIndex(t *testing.T) {
	t.Parallel()
	r := root().named(Dir, 0, "z").attr().
		file("b", 5, 512).
		file("a", 0, 0)[:len(root().named(Dir, 0, "z").attr().file("b", 5, 512).file("a", 0, 0))-1]. // an empty file has no place
		named(recordLink, 1, "hard").num(2).
		named(Symlink, 1, "c").attr().text("to")
	tr, err := parseRaw(r, 5)
	must(t, err)
	var names []string
	for _, d := range tr.children(0) {
		names = append(names, tr.name(d))
	}
	if !slices.Equal(names, []string{"a", "b", "z"}) {
		t.Errorf("root holds %q", names)
	}
	hard, _ := tr.lookup(1, "hard")
	link, _ := tr.lookup(1, "c")
	if b := tr.nodes[2]; hard != 2 || b.nlink != 2 || b.at != 512 || b.size != 5 || tr.target(link) != "to" {
		t.Errorf("hard %d, link %q, %+v", hard, tr.target(link), b)
	}
	if tr.path(link) != "z/c" || tr.path(0) != "" {
		t.Errorf("path %q", tr.path(link))
	}
	if _, ok := tr.lookup(2, "x"); ok {
		t.Error("a file has children")
	}
}

func TestParseIndexRefuses(t *testing.T) {
	t.Parallel()
	dir := func(parent uint64, name string) raw { return root().named(Dir, parent, name).attr() }
	cases := map[string]struct {
		r       raw
		entries uint64
		want    error
	}{
		"no root":              {nil, 0, ErrIndex},
		"fewer than said":      {root(), 1, ErrIndex},
		"more than said":       {dir(0, "x"), 0, ErrIndex},
		"empty name":           {dir(0, ""), 1, ErrName},
		"dot":                  {dir(0, "."), 1, ErrName},
		"dot dot":              {dir(0, ".."), 1, ErrName},
		"slash":                {dir(0, "a/b"), 1, ErrName},
		"NUL":                  {dir(0, "a\x00"), 1, ErrName},
		"name of 256 bytes":    {dir(0, strings.Repeat("n", 256)), 1, ErrIndex},
		"its own parent":       {dir(1, "x"), 1, ErrPath},
		"no such parent":       {dir(1<<40, "x"), 1, ErrPath},
		"file as parent":       {append(root().file("f", 1, 0), dir(1, "x")[len(root()):]...), 2, ErrPath},
		"unknown type":         {root().named(9, 0, "x").attr(), 1, ErrIndex},
		"same name twice":      {append(dir(0, "x"), dir(0, "x")[len(root()):]...), 2, ErrPath},
		"same name, unsorted":  {root().file("b", 1, 0).file("a", 1, 512-51).file("b", 1, 512-51), 3, ErrPath},
		"mode too large":       {root().named(Dir, 0, "x").num(0o10000, 0, 0), 1, ErrIndex},
		"nanoseconds":          {root().named(Dir, 0, "x").num(0, 0, 1e9), 1, ErrIndex},
		"link to nothing":      {root().named(recordLink, 0, "x").num(7), 1, ErrPath},
		"link to a directory":  {root().named(recordLink, 0, "x").num(0), 1, ErrPath},
		"empty target":         {root().named(Symlink, 0, "x").attr().text(""), 1, ErrName},
		"target with NUL":      {root().named(Symlink, 0, "x").attr().text("a\x00b"), 1, ErrName},
		"target too long":      {root().named(Symlink, 0, "x").attr().text(strings.Repeat("t", maxTarget+1)), 1, ErrIndex},
		"beyond the index":     {root().file("x", 1<<20, 0), 1, ErrIndex},
		"begins behind it":     {root().file("x", 1, 1<<20), 1, ErrIndex},
		"not on a tar block":   {root().file("x", 1, 100), 1, ErrIndex},
		"overflowing size":     {root().file("x", 1<<63, 0), 1, ErrIndex},
		"overflowing distance": {root().file("x", 1, 1<<64-512), 1, ErrIndex},
		"number too long":      {append(root(), bytes.Repeat([]byte{0xff}, 20)...), 1, ErrIndex},
		"ends in a name":       {root().named(Dir, 0, "name")[:8], 1, ErrIndex},
	}
	for name, c := range cases {
		_, err := parseRaw(c.r, c.entries)
		if !errors.Is(err, c.want) || !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInflateBounds: an index that inflates to more, or to less, than its
// header says.
func TestInflateBounds(t *testing.T) {
	t.Parallel()
	w, err := newIndexWriter()
	must(t, err)
	for _, e := range smallTree().entries {
		_, err := w.add(e, w.end+(tarBlock-w.end%tarBlock))
		must(t, err)
	}
	packed, err := w.finish()
	must(t, err)
	h := indexHeader{entries: w.entries, inflated: w.inflated, offset: 1 << 20}
	_, err = inflate(packed, h, nil)
	must(t, err)
	for name, change := range map[string]func(h *indexHeader){
		"one byte less": func(h *indexHeader) { h.inflated-- },
		"one byte more": func(h *indexHeader) { h.inflated++ },
		"one name less": func(h *indexHeader) { h.entries-- },
		"one name more": func(h *indexHeader) { h.entries++ },
	} {
		bad := h
		change(&bad)
		if _, err := inflate(packed, bad, nil); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := inflate([]byte("not compressed"), h, nil); !errors.Is(err, ErrIndex) {
		t.Errorf("garbage: %v", err)
	}
}

// TestLargeIndex: an index larger than the compressor's window.
func TestLargeIndex(t *testing.T) {
	t.Parallel()
	w, err := newIndexWriter()
	must(t, err)
	_, err = w.add(memDir(0, ""), 0)
	must(t, err)
	const n = 120_000
	for i := range n {
		e := memDir(0, fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})))
		e.Attr.Type = File
		_, err := w.add(e, 0)
		must(t, err)
	}
	if w.inflated < 2*indexWindow {
		t.Fatalf("only %d bytes", w.inflated)
	}
	packed, err := w.finish()
	must(t, err)
	tr, err := inflate(packed, indexHeader{entries: w.entries, inflated: w.inflated, offset: 1 << 20}, nil)
	must(t, err)
	if last, ok := tr.lookup(0, fmt.Sprintf("%x", sha256.Sum256([]byte{0, 0, 1}))); len(tr.names) != n || !ok || last != 1<<16+1 {
		t.Errorf("%d names, the one looked for is %d", len(tr.names), last)
	}
}

func TestHeaderBounds(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	size := int64(len(b))
	f, err := readFooter(bytes.NewReader(b), size)
	must(t, err)
	h, _, err := readIndexHeader(bytes.NewReader(b), f)
	must(t, err)
	if h.id != s.ID {
		t.Error("header holds another id")
	}
	longer := f
	longer.total++
	if _, err := parseFooter(longer.encode(), size); !errors.Is(err, ErrSize) {
		t.Errorf("footer, another total: %v", err)
	}
	for name, change := range map[string]func(f *footer){
		"negative offset": func(f *footer) { f.offset = -512 },
		"huge offset":     func(f *footer) { f.offset = 1 << 62 },
		"unaligned":       func(f *footer) { f.offset -= 8; f.length += 8 },
		"short index":     func(f *footer) { f.length = 10; f.offset = size - afterIndex - tarBlock },
		"huge index":      func(f *footer) { f.length = 1 << 62 },
	} {
		bad := f
		change(&bad)
		if _, err := parseFooter(bad.encode(), size); !errors.Is(err, ErrFooter) {
			t.Errorf("footer, %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(h *indexHeader){
		"id":       func(h *indexHeader) { h.id[0]++ },
		"total":    func(h *indexHeader) { h.total += 512 },
		"offset":   func(h *indexHeader) { h.offset -= 512 },
		"entries":  func(h *indexHeader) { h.entries = maxEntries + 1 },
		"inflated": func(h *indexHeader) { h.inflated = maxInflated + 1 },
		"thin":     func(h *indexHeader) { h.entries = h.inflated },
		"packed":   func(h *indexHeader) { h.packed++ },
	} {
		bad := h
		change(&bad)
		if _, err := parseIndexHeader(bad.encode(), f); !errors.Is(err, ErrIndex) {
			t.Errorf("index header, %s: %v", name, err)
		}
	}
}
