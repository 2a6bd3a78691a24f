package volume

import (
	"archive/tar"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// badVector is a vector that must be refused.
type badVector struct {
	formatVector
	bytes []byte
}

// victim is a good vector taken apart, from which bad ones are made.
type victim struct {
	t      testing.TB
	b      []byte
	key    Key
	foot   footer
	head   indexHeader
	nonces *rand.ChaCha8
}

func newVictim(t testing.TB, name string) *victim {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorsDir, name+".sealed"))
	must(t, err)
	at := bytes.NewReader(b)
	v := &victim{t: t, b: b, nonces: rand.NewChaCha8([32]byte{'b', 'a', 'd'})}
	v.key, err = UnwrapKey(at, int64(len(b)), vectorIdentity(t, "x25519")...)
	must(t, err)
	v.foot, err = readFooter(at, int64(len(b)))
	must(t, err)
	v.head, _, err = readIndexHeader(at, v.foot)
	must(t, err)
	return v
}

// footerAt returns where the footer's data begins.
func (v *victim) footerAt() int { return len(v.b) - footerFromEnd }

// edit returns a copy with other bytes at an offset.
func (v *victim) edit(at int, with ...byte) []byte {
	b := bytes.Clone(v.b)
	copy(b[at:], with)
	return b
}

// flip returns a copy with one bit turned.
func (v *victim) flip(at int) []byte { return v.edit(at, v.b[at]^0x10) }

// footer returns a copy with another footer.
func (v *victim) footer(change func(f *footer)) []byte {
	f := v.foot
	change(&f)
	return v.edit(v.footerAt(), f.encode()...)
}

// at returns node n's ciphertext place.
func (v *victim) at(n int) int {
	r, err := Open(bytes.NewReader(v.b), int64(len(v.b)), v.key)
	must(v.t, err)
	return int(r.t.nodes[n].at)
}

// records inflates the index.
func (v *victim) records() []byte {
	c, err := newCodec(v.key)
	must(v.t, err)
	head := v.b[v.foot.offset : v.foot.offset+indexHeaderSize]
	sealed := v.b[v.foot.offset+indexHeaderSize : v.foot.offset+v.foot.length]
	packed, err := c.index.Open(nil, v.head.nonce[:], sealed, head)
	must(v.t, err)
	zr, err := zstd.NewReader(bytes.NewReader(packed))
	must(v.t, err)
	defer zr.Close()
	raw, err := io.ReadAll(zr)
	must(v.t, err)
	return raw
}

func pack(t testing.TB, records []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zw, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(indexWindow))
	must(t, err)
	_, err = zw.Write(records)
	must(t, err)
	must(t, zw.Close())
	return out.Bytes()
}

// reindexed replaces the index by one with other records, sealed with the key:
// what only its holder can do. change may alter the header first.
func (v *victim) reindexed(records raw, entries uint64, change func(h *indexHeader)) []byte {
	return v.repacked(pack(v.t, records), entries, uint64(len(records)), change)
}

func (v *victim) repacked(packed []byte, entries, inflated uint64, change func(h *indexHeader)) []byte {
	h := v.head
	h.entries, h.inflated, h.packed = entries, inflated, uint64(len(packed))
	length := int64(indexHeaderSize + len(packed) + tagSize)
	h.total = h.offset + padded(length) + afterIndex
	_, _ = v.nonces.Read(h.nonce[:])
	if change != nil {
		change(&h)
	}
	head := h.encode()
	c, err := newCodec(v.key)
	must(v.t, err)
	var out bytes.Buffer
	out.Write(v.b[:v.head.offset-tarBlock])
	v.member(&out, indexName, append(bytes.Clone(head), c.index.Seal(nil, h.nonce[:], packed, head)...))
	total := v.head.offset + padded(length) + afterIndex
	v.member(&out, footerName, footer{id: v.head.id, total: total, offset: v.head.offset, length: length}.encode())
	out.Write(zeros[:])
	return out.Bytes()
}

// member writes a tar member.
func (v *victim) member(out *bytes.Buffer, name string, data []byte) {
	w := tar.NewWriter(out)
	must(v.t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(data)),
		ModTime: fixedTime.Truncate(time.Second), Format: tar.FormatPAX}))
	_, err := w.Write(data)
	must(v.t, err)
	must(v.t, w.Flush())
}

// rekeyed replaces keys.age by one with another plaintext, in as many tar
// blocks. A stored vector's keys.age is used again, as age makes another each time.
func (v *victim) rekeyed(file, plaintext, identity string) []byte {
	var keys []byte
	if stored, err := os.ReadFile(filepath.Join(vectorsDir, file)); err == nil {
		keys = keysOf(v.t, stored)
	} else {
		var out bytes.Buffer
		rcpts := goodVector{recipients: []string{identity}}.rcpts(v.t)
		w, err := age.Encrypt(&out, rcpts...)
		must(v.t, err)
		_, err = io.WriteString(w, plaintext)
		must(v.t, err)
		must(v.t, w.Close())
		keys = out.Bytes()
	}
	old := padded(int64(len(keysOf(v.t, v.b))))
	var out bytes.Buffer
	v.member(&out, keysName, keys)
	out.Write(make([]byte, max(0, int(tarBlock+old)-out.Len())))
	if int64(out.Len()) != tarBlock+old {
		v.t.Fatalf("%s: keys.age takes %d bytes instead of %d", file, out.Len(), tarBlock+old)
	}
	out.Write(v.b[tarBlock+old:])
	return out.Bytes()
}

// badVectors makes all bad vectors; the good ones must be there.
func badVectors(t *testing.T) []badVector {
	v := newVictim(t, "good-one")
	var out []badVector
	add := func(name, why string, b []byte) {
		class, _, _ := strings.Cut(name, "-")
		out = append(out, badVector{formatVector{File: "bad-" + name + ".sealed", Why: why, Class: class, Identity: "x25519"}, b})
	}
	footerVectors(v, add)
	indexVectors(v, add)
	recordVectors(v, add)
	contentVectors(newVictim(t, "good-sizes"), add)
	keyVectors(v, add)
	return out
}

func footerVectors(v *victim, add func(name, why string, b []byte)) {
	end := len(v.b)
	add("footer-magic", "another magic", v.edit(v.footerAt(), 'S'))
	add("footer-unused", "a set bit in the unused bytes", v.flip(v.footerAt()+200))
	add("footer-cut", "the last 512 bytes are missing", v.b[:end-tarBlock])
	add("footer-halved", "cut in the middle", v.b[:end/2])
	add("footer-longer", "512 bytes more at the end", append(bytes.Clone(v.b), make([]byte, tarBlock)...))
	add("footer-nothing", "an empty file", nil)
	add("footer-place", "the index is said to begin 512 bytes earlier", v.footer(func(f *footer) { f.offset -= tarBlock }))
	add("footer-negative", "the index is said to begin at 2^64-512", v.footer(func(f *footer) { f.offset = -tarBlock }))
	add("footer-unaligned", "the index is said to begin at no multiple of 512", v.footer(func(f *footer) { f.offset -= 8; f.length += 8 }))
	add("footer-huge", "the index is said to have 2^62 bytes", v.footer(func(f *footer) { f.length = 1 << 62 }))
	add("size-total", "the footer names another length of the file", v.footer(func(f *footer) { f.total += tarBlock }))
	add("size-shorter", "512 bytes of the content cut out", append(bytes.Clone(v.b[:v.foot.offset-1024]), v.b[v.foot.offset-tarBlock:]...))
	add("version-footer", "version 2 in the footer", v.edit(v.footerAt()+19, 2))
	add("version-index", "version 2 in the index's header", v.edit(int(v.foot.offset)+11, 2))
}

func indexVectors(v *victim, add func(name, why string, b []byte)) {
	at, good, n := int(v.foot.offset), raw(v.records()), v.head.entries
	other := newVictim(v.t, "good-one-other")
	add("index-magic", "another magic", v.edit(at, 's'))
	add("index-unused", "a set bit in the unused bytes of the header", v.flip(at+90))
	add("index-id", "another volume id in the header", v.flip(at+16))
	add("index-nonce", "another nonce", v.flip(at+72))
	add("index-altered", "one bit of the encrypted records turned", v.flip(at+indexHeaderSize+3))
	add("index-tag", "one bit of the tag turned", v.flip(at+int(v.foot.length)-1))
	add("index-other", "the index of another volume of the same lengths", v.edit(at, other.b[at:at+int(v.foot.length)]...))
	add("key-other-index", "index and footer of another volume of the same lengths", v.edit(at, other.b[at:]...))
	add("index-total", "header and footer disagree about the length of the file",
		v.reindexed(good, n, func(h *indexHeader) { h.total += tarBlock }))
	add("index-moved", "header and footer disagree about the place", v.reindexed(good, n, func(h *indexHeader) { h.offset -= tarBlock }))
	add("index-entries", "says that there are 2^26+1 names", v.reindexed(good, n, func(h *indexHeader) { h.entries = maxEntries + 1 }))
	add("index-thin", "says more names than its length can hold",
		v.reindexed(good, n, func(h *indexHeader) { h.entries = h.inflated/minRecord + 1 }))
	add("index-fewer", "says one name less than it has", v.reindexed(good, n-1, nil))
	add("index-more", "says one name more than it has", v.reindexed(append(good, 0, 0, 0, 0, 0)[:len(good)], n+1, nil))
	add("index-inflates-less", "inflates to less than it says", v.repacked(pack(v.t, good), n, uint64(len(good)+1), nil))
	add("index-inflates-more", "inflates to one byte more than it says",
		v.repacked(pack(v.t, append(bytes.Clone(good), 0)), n, uint64(len(good)), nil))
	add("index-bomb", "inflates to 8 MiB and says 37 bytes",
		v.repacked(pack(v.t, append(bytes.Clone(good), make([]byte, 8<<20)...)), n, uint64(len(good)), nil))
	add("index-trailing", "a byte behind the last record", v.reindexed(append(bytes.Clone(good), 0), n, nil))
	add("index-not-zstd", "not compressed", v.repacked(bytes.Clone(good), n, uint64(len(good)), nil))
	add("index-packed", "the header names another compressed length", v.reindexed(good, n, func(h *indexHeader) { h.packed-- }))
}

// recordVectors are indexes that only somebody with the key can make.
func recordVectors(v *victim, add func(name, why string, b []byte)) {
	one := func(r raw) []byte { return v.reindexed(r, 1, nil) }
	dir := func(r raw, parent uint64, name string) raw { return r.named(Dir, parent, name).attr() }
	add("index-type", "a record of type 9", one(root().named(9, 0, "x").attr()))
	add("index-mode", "a mode of 13 bits", one(root().named(Dir, 0, "x").num(0o10000, 0, 0)))
	add("index-nanoseconds", "a time with 10^9 nanoseconds", one(root().named(Dir, 0, "x").num(0, 0, 1e9)))
	add("index-varint", "a number of more than 64 bits", one(append(root().named(Dir, 0, "x"), bytes.Repeat([]byte{0xff}, 11)...)))
	add("index-ends", "ends inside a record", one(root().named(Dir, 0, "a long name")[:12]))
	add("index-unaligned", "content at no multiple of 512", one(root().file("x", 14, 100)))
	add("index-beyond", "content that reaches beyond the index", one(root().file("x", 1<<40, 512)))
	add("index-overflow", "a distance of 2^64-512", one(root().file("x", 1, 1<<64-512)))
	add("index-size", "a size of 2^63", one(root().file("x", 1<<63, 512)))
	add("index-long-name", "a name of 256 bytes", one(dir(root(), 0, strings.Repeat("n", 256))))
	add("index-long-target", "a target of 3040 bytes", one(root().named(Symlink, 0, "x").attr().text(strings.Repeat("t", maxTarget+1))))
	add("path-later", "a name in a directory that comes later", one(dir(root(), 2, "x")))
	add("path-itself", "a directory in itself", one(dir(root(), 1, "x")))
	add("path-in-file", "a name in a file", v.reindexed(dir(root().file("f", 0, 0)[:len(root().file("f", 0, 0))-1], 1, "x"), 2, nil))
	add("path-in-link", "a name in a symbolic link", v.reindexed(dir(root().named(Symlink, 0, "l").attr().text("/etc"), 1, "x"), 2, nil))
	add("path-twice", "one name twice in a directory", v.reindexed(dir(dir(root(), 0, "x"), 0, "x"), 2, nil))
	add("path-link-dir", "a hard link to a directory", one(root().named(recordLink, 0, "x").num(0)))
	add("path-link-later", "a hard link to a later file", one(root().named(recordLink, 0, "x").num(2)))
	add("name-empty", "an empty name", one(dir(root(), 0, "")))
	add("name-dot", "the name .", one(dir(root(), 0, ".")))
	add("name-dotdot", "the name ..", one(dir(root(), 0, "..")))
	add("name-slash", "a name with a slash", one(dir(root(), 0, "../../etc")))
	add("name-nul", "a name with NUL", one(dir(root(), 0, "a\x00b")))
	add("name-no-target", "a symbolic link with an empty target", one(root().named(Symlink, 0, "x").attr().text("")))
	add("name-target-nul", "a target with NUL", one(root().named(Symlink, 0, "x").attr().text("a\x00b")))
}

func contentVectors(v *victim, add func(name, why string, b []byte)) {
	r, err := Open(bytes.NewReader(v.b), int64(len(v.b)), v.key)
	must(v.t, err)
	node := func(name string) int {
		n, ok := r.Lookup(0, name)
		if !ok {
			v.t.Fatalf("no %s", name)
		}
		return v.at(int(n))
	}
	two, last, small := node("size-8192"), node("size-4097"), node("size-4096")
	first, second := two+headerSize, two+headerSize+cipherBlock
	add("block-altered", "one bit of the ciphertext turned", v.flip(first+1000))
	add("block-nonce", "one bit of a nonce turned", v.flip(second))
	add("block-tag", "one bit of a tag turned", v.flip(second+cipherBlock-1))
	add("block-zeroed", "a block of zeros, which gocryptfs takes for a hole", v.edit(second, make([]byte, cipherBlock)...))
	add("block-exchanged", "two blocks of a file exchanged",
		v.edit(first, append(bytes.Clone(v.b[second:second+cipherBlock]), v.b[first:first+cipherBlock]...)...))
	add("block-copied", "the same block number of another file", v.edit(first, v.b[last+headerSize:last+headerSize+cipherBlock]...))
	add("block-file", "the whole ciphertext of another file of the same length",
		v.edit(small, v.b[two:two+headerSize+cipherBlock]...))
	add("block-version", "a file header of version 3", v.edit(two+1, 3))
	add("block-id", "another file id in a file header", v.flip(two+5))
	add("block-older", "content of another volume of the same tree", v.edit(two, olderContent(v)...))
}

// olderContent returns the ciphertext of the same file in a volume with another key.
func olderContent(v *victim) []byte {
	for _, g := range goodVectors() {
		if g.name != "good-sizes" {
			continue
		}
		g.seed = 100
		s, b := g.seal(v.t, keysOf(v.t, v.b))
		r, err := Open(bytes.NewReader(b), int64(len(b)), s.Key)
		must(v.t, err)
		n, _ := r.Lookup(0, "size-8192")
		at := r.t.nodes[n].at
		return b[at : at+cipherSize(8192)]
	}
	return nil
}

func keyVectors(v *victim, add func(name, why string, b []byte)) {
	id, hex := v.head.id.String(), v.key.Hex()
	doc := func(format, id, key string) string {
		return `{"format":"` + format + `","volume":"` + id + `","key":"` + key + "\"}\n"
	}
	for _, c := range []struct{ name, why, plain, identity string }{
		{"identity-others", "encrypted to somebody else", doc(keysFormat, id, hex), "stranger"},
		{"identity-ssh", "encrypted to an ssh-ed25519 key, read with an age identity", doc(keysFormat, id, hex), "ssh-ed25519"},
		{"key-other", "holds the key of another volume", doc(keysFormat, strings.Repeat("0", 31)+"1", hex), "x25519"},
		{"key-zero", "holds a key of zeros", doc(keysFormat, id, strings.Repeat("0", 64)), "x25519"},
		{"key-short", "holds a key of 31 bytes", doc(keysFormat, id, hex[2:]), "x25519"},
		{"key-upper-case", "holds a key in upper case", doc(keysFormat, id, strings.ToUpper(hex)), "x25519"},
		{"key-format", "names another format", doc("sealbatch-key-2", id, hex), "x25519"},
		{"key-unknown", "has an unknown member", strings.Replace(doc(keysFormat, id, hex), "{", `{"x":1,`, 1), "x25519"},
		{"key-twice", "holds two JSON values", doc(keysFormat, id, hex) + "{}", "x25519"},
		{"key-empty", "holds nothing", "", "x25519"},
	} {
		add(c.name, "keys.age: "+c.why, v.rekeyed("bad-"+c.name+".sealed", c.plain, c.identity))
	}
	add("key-name", "the first member is not keys.age", v.renamed())
	add("key-damaged", "keys.age: one bit of its encrypted content turned", v.flip(tarBlock+len(keysOf(v.t, v.b))-1))
	add("key-header", "keys.age: one bit of its header's MAC turned", v.edit(tarBlock+bytes.Index(v.b[tarBlock:], []byte("\n--- "))+10, '/'))
	add("index-key", "keys.age: holds a wrong key under the right id", v.rekeyed("bad-index-key.sealed",
		doc(keysFormat, id, strings.Repeat("07", 32)), "x25519"))
}

// renamed returns the volume with another name for its first member.
func (v *victim) renamed() []byte {
	var out bytes.Buffer
	keys := keysOf(v.t, v.b)
	v.member(&out, "keys.old", keys)
	return append(out.Bytes(), v.b[out.Len():]...)
}

// TestBadVectorsAreCurrent: what docs/vectors holds is what is made here.
func TestBadVectorsAreCurrent(t *testing.T) {
	t.Parallel()
	bad := badVectors(t)
	for _, v := range bad {
		stored, err := os.ReadFile(filepath.Join(vectorsDir, v.File))
		must(t, err)
		if !bytes.Equal(stored, v.bytes) {
			t.Errorf("%s: differs from what is made now", v.File)
		}
	}
	if len(bad) < 60 {
		t.Errorf("only %d bad vectors", len(bad))
	}
}
