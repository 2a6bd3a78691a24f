package volume

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

// specimen is a small volume, what it holds, and which of its bytes a reader
// uses.
type specimen struct {
	t      *testing.T
	b      []byte
	sealed Sealed
	r      *Reader
	want   string
	used   []bool
}

// newSpecimen seals a tree with a little of everything. Specimens differ in key
// and content, but nothing else.
func newSpecimen(t *testing.T, seed byte) *specimen {
	t.Helper()
	fill := func(n int) string { return strings.Repeat(string('a'+rune(seed)), n) }
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "a", fill(4), 2)
	src.file(0, "empty", "", 1)
	src.file(0, "twin-1", fill(plainBlock+1)+"1", 1)
	src.file(0, "twin-2", fill(plainBlock+1)+"2", 1)
	src.file(0, "b", fill(5), 1)
	src.file(0, "c", fill(5), 1)
	src.entries = append(src.entries, memLink(0, "link", "../a"), Entry{Name: "hard", IsLink: true, Link: 1})
	s := &specimen{t: t}
	s.sealed, s.b = sealFixed(t, src, seed)
	used := recorder{bytes.NewReader(s.b), make([]bool, len(s.b))}
	var err error
	s.r, err = Open(used, s.sealed.Size, s.sealed.Key)
	must(t, err)
	s.want, err = dump(s.r)
	must(t, err)
	s.used = used.read
	return s
}

// check reads an altered specimen. It must be refused, with a class, exactly if
// a byte that the reader uses was altered; else it must read as it was.
func (s *specimen) check(what string, bad []byte) (refused bool) {
	touched := len(bad) != len(s.b)
	for i := 0; !touched && i < len(bad); i++ {
		touched = s.used[i] && bad[i] != s.b[i]
	}
	got, err := openAndDump(bad, s.sealed.Key)
	switch {
	case err != nil && !hasClass(err):
		s.t.Errorf("%s: an error without a class: %v", what, err)
	case err == nil && got != s.want:
		s.t.Errorf("%s: reads as something else:\n%s", what, got)
	case (err != nil) != touched:
		s.t.Errorf("%s: used bytes altered: %v, but: %v", what, touched, err)
	}
	return err != nil
}

// region is a stretch of a file.
type region struct{ at, n int }

// regions lists what an attacker would exchange: tar blocks, tar members,
// ciphertexts, blocks of ciphertext, and headers.
func (s *specimen) regions() []region {
	var out []region
	for at := 0; at < len(s.b); at += tarBlock {
		out = append(out, region{at, tarBlock})
	}
	for _, n := range s.r.t.nodes {
		if n.typ != File || n.size == 0 {
			continue
		}
		at, end := int(n.at), int(n.at+cipherSize(n.size))
		out = append(out, region{at, end - at}, region{at, headerSize}, region{at - tarBlock, tarBlock + int(padded(int64(end-at)))})
		for b := at + headerSize; b < end; b += cipherBlock {
			out = append(out, region{b, min(cipherBlock, end-b)})
		}
	}
	return append(out, region{int(s.r.head.offset), indexHeaderSize})
}

// altered returns a copy with other bytes in one place.
func (s *specimen) altered(at int, with []byte) []byte {
	b := bytes.Clone(s.b)
	copy(b[at:], with)
	return b
}

// corruptions makes all alterations that keep the length, one at a time.
func (s *specimen) corruptions(older *specimen, do func(what string, bad []byte)) {
	all := s.regions()
	for i, r := range all {
		mine := s.b[r.at : r.at+r.n]
		do(fmt.Sprintf("zeroed %v", r), s.altered(r.at, make([]byte, r.n)))
		do(fmt.Sprintf("%v of an older version", r), s.altered(r.at, older.b[r.at:r.at+r.n]))
		for _, o := range all[i+1:] {
			if o.n != r.n || o.at < r.at+r.n && r.at < o.at+o.n {
				continue
			}
			theirs := s.b[o.at : o.at+o.n]
			both := s.altered(r.at, theirs)
			copy(both[o.at:], mine)
			do(fmt.Sprintf("%v and %v exchanged", r, o), both)
			do(fmt.Sprintf("%v put over %v", r, o), s.altered(o.at, mine))
			do(fmt.Sprintf("%v put over %v", o, r), s.altered(r.at, theirs))
		}
	}
	for at := tarBlock; at < len(s.b); at += tarBlock {
		do(fmt.Sprintf("older up to %d", at), s.altered(0, older.b[:at]))
		do(fmt.Sprintf("older from %d on", at), s.altered(at, older.b[at:]))
	}
}

// TestExhaustiveCorruption: whatever regions of a volume are exchanged, copied,
// zeroed or rolled back, the result is refused or reads as it was.
func TestExhaustiveCorruption(t *testing.T) {
	t.Parallel()
	s, older := newSpecimen(t, 1), newSpecimen(t, 2)
	if len(s.b) != len(older.b) || s.want == older.want {
		t.Fatalf("the specimens have %d and %d bytes", len(s.b), len(older.b))
	}
	type alteration struct {
		what string
		bad  []byte
	}
	var refused, same int
	var batch []alteration
	flush := func() {
		results := make([]bool, len(batch))
		each(len(batch), func(i int) { results[i] = s.check(batch[i].what, batch[i].bad) })
		for _, r := range results {
			if r {
				refused++
			} else {
				same++
			}
		}
		batch = batch[:0]
	}
	s.corruptions(older, func(what string, bad []byte) {
		if batch = append(batch, alteration{what, bad}); len(batch) == 256 {
			flush()
		}
	})
	flush()
	t.Logf("%d alterations refused, %d without effect", refused, same)
	if refused < 500 || same < 100 {
		t.Errorf("%d refused, %d without effect: too few to mean anything", refused, same)
	}
}

// TestInsertedAndRemoved: tar blocks added or taken away anywhere.
func TestInsertedAndRemoved(t *testing.T) {
	t.Parallel()
	s := newSpecimen(t, 3)
	each(len(s.b)/tarBlock, func(i int) {
		at := i * tarBlock
		block := s.b[at : at+tarBlock]
		for what, bad := range map[string][]byte{
			"removed":       slices.Concat(s.b[:at], s.b[at+tarBlock:]),
			"doubled":       slices.Concat(s.b[:at], block, s.b[at:]),
			"zeros before":  slices.Concat(s.b[:at], make([]byte, tarBlock), s.b[at:]),
			"a byte before": slices.Concat(s.b[:at], []byte{0}, s.b[at:]),
		} {
			s.check(fmt.Sprintf("block %d: %s", i, what), bad)
		}
	})
}

// TestCutWhileOpen: a file that is cut after it was opened, to every length.
func TestCutWhileOpen(t *testing.T) {
	t.Parallel()
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "a", "text", 1)
	src.file(0, "b", pattern(plainBlock+1), 1)
	s, b := sealFixed(t, src, 4)
	r := openBytes(t, b, s.Key)
	want, err := dump(r)
	must(t, err)
	last := int(r.t.nodes[2].at + cipherSize(r.t.nodes[2].size))
	each(len(b), func(n int) {
		cut := &Reader{r: bytes.NewReader(b[:n]), size: r.size, head: r.head, codec: r.codec, t: r.t}
		cut.ids.New = r.ids.New
		got, err := dump(cut)
		if n >= last && (err != nil || got != want) {
			t.Errorf("cut to %d, behind all content: %v", n, err)
		}
		if n < last && !errors.Is(err, ErrSize) {
			t.Errorf("cut to %d: %v", n, err)
		}
	})
}

// TestFlippedHead flips a bit of each byte before the tree: the result is the
// same key, or it is said to be damaged.
func TestFlippedHead(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	s, b := sealBytes(t, t.TempDir(), id.Recipient())
	end := tarBlock + int(padded(int64(len(keysOf(t, b)))))
	refused := make([]bool, end)
	each(end, func(i int) {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		key, err := UnwrapKey(bytes.NewReader(bad), s.Size, []age.Identity{id}...)
		refused[i] = err != nil
		if err != nil && !(errors.Is(err, ErrKey) && errors.Is(err, ErrIntegrity)) {
			t.Errorf("byte %d: not said to be damage: %v", i, err)
		}
		if err == nil && !key.Equal(s.Key) {
			t.Errorf("byte %d: another key", i)
		}
	})
	for i := range keysOf(t, b) {
		if !refused[tarBlock+i] {
			t.Errorf("byte %d of keys.age altered and not noticed", i)
		}
	}
}

// TestFlippedEnd flips a bit of each byte of the index's header and of the footer: it is said to be damaged.
func TestFlippedEnd(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	s, b := sealBytes(t, t.TempDir(), id.Recipient())
	f, err := readFooter(bytes.NewReader(b), s.Size)
	must(t, err)
	for at, length := range map[int]int{int(f.offset): indexHeaderSize, len(b) - footerFromEnd: footerUsed} {
		each(length, func(i int) {
			bad := bytes.Clone(b)
			bad[at+i] ^= 1 << (i % 8)
			r := bytes.NewReader(bad)
			key, err := UnwrapKey(r, s.Size, id)
			if err == nil {
				_, err = OpenOptions{}.openIndex(r, s.Size, key)
			}
			if !errors.Is(err, ErrIntegrity) {
				t.Errorf("byte %d from %d: not said to be damage: %v", i, at, err)
			}
		})
	}
}

// drawn returns everything in a volume that must never be drawn twice.
func drawn(t *testing.T, s Sealed, b []byte) []string {
	t.Helper()
	r := openBytes(t, b, s.Key)
	out := []string{s.ID.String(), s.Key.Hex(), fmt.Sprintf("index %x", r.head.nonce)}
	ids := r.codec.newIDMaker()
	for i, n := range r.t.nodes {
		if n.typ != File || n.size == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("file %x", ids.id(uint32(i))))
		for raw := range slices.Chunk(b[n.at+headerSize:n.at+cipherSize(n.size)], cipherBlock) {
			out = append(out, fmt.Sprintf("nonce %x", raw[:nonceSize]))
		}
	}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		switch {
		case h.Typeflag == tar.TypeSymlink:
			raw, err := nameEncoding.DecodeString(h.Linkname)
			must(t, err)
			out = append(out, fmt.Sprintf("nonce %x", raw[:nonceSize]))
		case strings.HasSuffix(h.Name, "/"+dirIVName):
			iv, err := io.ReadAll(tr)
			must(t, err)
			out = append(out, fmt.Sprintf("diriv %x", iv))
		}
	}
}

// TestNothingDrawnTwice: two seals of one input share no id, key, nonce,
// directory tweak or file id, and none comes twice in one of them.
func TestNothingDrawnTwice(t *testing.T) {
	t.Parallel()
	dir := oddTree(t)
	first, b1 := sealBytes(t, dir)
	second, b2 := sealBytes(t, dir)
	all := append(drawn(t, first, b1), drawn(t, second, b2)...)
	kinds, seen := map[string]int{}, map[string]bool{}
	for _, d := range all {
		kind, _, _ := strings.Cut(d, " ")
		kinds[kind]++
		if seen[d] {
			t.Errorf("drawn twice: %s", kind)
		}
		seen[d] = true
	}
	if kinds["nonce"] < 3000 || kinds["diriv"] < 10 || kinds["file"] < 40 || kinds["index"] != 2 {
		t.Errorf("compared too little: %v", kinds)
	}
	// Nor is any stretch of ciphertext the same in both.
	mine := map[string]bool{}
	head := tarBlock + padded(int64(len(keysOf(t, b1)))) // its padding is no ciphertext
	for block := range slices.Chunk(b1[head:], 64) {
		mine[string(block)] = bytes.IndexByte(block, 0) < 0
	}
	for block := range slices.Chunk(b2[head:], 64) {
		if mine[string(block)] {
			t.Errorf("the same 64 bytes in two seals: %q", block)
		}
	}
}
