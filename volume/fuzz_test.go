package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func FuzzFooter(f *testing.F) {
	good := footer{id: ID{1}, total: 10_240, offset: 10_240 - afterIndex - 512, length: 200}
	f.Add(good.encode(), int64(10_240))
	f.Add(make([]byte, tarBlock), int64(0))
	for _, v := range storedVectors(f) {
		if size := len(v.b); size >= footerFromEnd {
			f.Add(v.b[size-footerFromEnd:size-tarTrailer], int64(size))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		got, err := parseFooter(b, size)
		if err != nil {
			if !hasClass(err) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		if !bytes.Equal(got.encode(), b) {
			t.Error("a footer in another than the canonical form was accepted")
		}
		if got.offset < 0 || got.offset+got.length > size {
			t.Errorf("an index outside of the file: %+v", got)
		}
	})
}

func FuzzIndexHeader(f *testing.F) {
	for _, v := range storedVectors(f) {
		if foot, err := readFooter(bytes.NewReader(v.b), int64(len(v.b))); err == nil {
			f.Add(v.b[foot.offset : foot.offset+indexHeaderSize])
		}
	}
	at := footer{id: ID{1}, total: 10_240, offset: 512, length: indexHeaderSize + tagSize + 50}
	good := indexHeader{magic: indexMagic, id: at.id, total: at.total, offset: at.offset, entries: 3, inflated: 40, packed: 50}
	f.Add(good.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseIndexHeader(b, at)
		if err != nil {
			if !hasClass(err) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		if !bytes.Equal(h.encode(), b) || h.entries > maxEntries || h.inflated > maxInflated || h.packed != 50 {
			t.Errorf("accepted %+v", h)
		}
	})
}

// FuzzIndex parses index records as somebody with the key could make them.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(root()), uint16(0))
	for _, g := range goodVectors() {
		if g.identity == "x25519" {
			v := newVictim(f, g.name)
			f.Add(v.records(), uint16(v.head.entries))
		}
	}
	f.Add([]byte(root().file("f", 5, 512)), uint16(1))
	f.Add([]byte(root().named(Dir, 0, "d").attr().named(Symlink, 1, "s").attr().text("t")), uint16(2))
	f.Add([]byte(root().file("f", 5, 512).named(recordLink, 0, "g").num(1)), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, entries uint16) {
		tr, err := parseRaw(b, uint64(entries))
		if err != nil {
			if !errors.Is(err, ErrIntegrity) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		checkTree(t, tr, int(entries))
	})
}

// FuzzDirIndex is FuzzIndex for the index of a cipher directory.
func FuzzDirIndex(f *testing.F) {
	iv := strings.Repeat("i", dirIVSize)
	top := append(root(), iv...)
	f.Add([]byte(top), uint16(0))
	f.Add([]byte(append(append(top.named(Dir, 0, "d").attr(), iv...).named(File, 1, "f").attr().num(5, 0), iv...).num(0)), uint16(2))
	f.Add([]byte(append(append(top.named(File, 0, "f").attr().num(5, 0), iv...).num(1), strings.Repeat("d", 32)...)), uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, entries uint16) {
		places := dirPlaces{extra: map[uint32]int64{}}
		h := indexHeader{entries: uint64(entries), inflated: uint64(len(b))}
		tr, err := parseIndex(bytes.NewReader(b), h, &places)
		if err != nil {
			if !errors.Is(err, ErrIntegrity) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		if len(places.marks) != len(tr.nodes) {
			t.Fatalf("%d marks of %d nodes", len(places.marks), len(tr.nodes))
		}
		var next int64
		for i, n := range tr.nodes {
			if n.typ != File || n.at < 0 {
				continue
			}
			if n.at != next || n.at+segments(n.size) > int64(len(places.digests)) {
				t.Errorf("node %d has digests that it does not have", i)
			}
			next += segments(n.size)
		}
		if next != int64(len(places.digests)) {
			t.Errorf("%d digests, %d are used", len(places.digests), next)
		}
	})
}

// checkTree asserts what readers rely on.
func checkTree(t *testing.T, tr *tree, entries int) {
	t.Helper()
	if len(tr.names) != entries {
		t.Errorf("%d names, want %d", len(tr.names), entries)
	}
	var end int64
	reached, names := map[uint32]bool{0: true}, 0
	for i, n := range tr.nodes {
		if n.typ == File && n.size > 0 {
			if n.at < end || n.at+cipherSize(n.size) > 1<<20 {
				t.Errorf("node %d lies outside, or in another", i)
			}
			end = n.at + cipherSize(n.size)
		}
		kids := tr.children(uint32(i))
		names += len(kids)
		for j, d := range kids {
			if checkName(tr.name(d)) != nil || (j > 0 && tr.name(kids[j-1]) >= tr.name(d)) {
				t.Errorf("bad or unsorted name %q", tr.name(d))
			}
			if got, ok := tr.lookup(uint32(i), tr.name(d)); !ok || got != d.node {
				t.Errorf("%q is not found", tr.name(d))
			}
			reached[d.node] = true
		}
	}
	if names != entries || len(reached) != len(tr.nodes) {
		t.Errorf("%d names of %d, %d nodes of %d can be reached", names, entries, len(reached), len(tr.nodes))
	}
}

func FuzzKeysJSON(f *testing.F) {
	f.Add([]byte(`{"format":"sealbatch-key-1","volume":"00112233445566778899aabbccddeeff","key":"` +
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" + `"}` + "\n"))
	f.Add([]byte(`{"format":"sealbatch-key-1","volume":"","key":""}`))
	f.Add([]byte(`{"key":"é"}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, key, err := parseKeysJSON(b)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		again, err := json.Marshal(keysJSON{Format: keysFormat, Volume: id, Key: key.Hex()})
		must(t, err)
		if id2, key2, err := parseKeysJSON(again); err != nil || id2 != id || !key2.Equal(key) || key.IsZero() {
			t.Errorf("what was read does not read again: %v", err)
		}
	})
}

func FuzzNames(f *testing.F) {
	var b [KeySize]byte
	b[0] = 1
	key, err := KeyFromBytes(b[:])
	if err != nil {
		f.Fatal(err)
	}
	c, err := newCodec(key)
	if err != nil {
		f.Fatal(err)
	}
	iv := bytes.Repeat([]byte{3}, dirIVSize)
	entry, _ := c.cipherName("name", iv)
	f.Add("name", entry)
	f.Add("\xff", "AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("n\n", "AAAAAAAAAAAAAAAAAAAAAA\n")
	f.Fuzz(func(t *testing.T, plain, cipher string) {
		if checkName(plain) == nil {
			entry, long := c.cipherName(plain, iv)
			if len(entry) > maxName || (long != "") != (len(plain) >= 176) {
				t.Errorf("%q: entry %q, long %q", plain, entry, long)
			}
			if long == "" {
				long = entry
			}
			if got, err := c.plainName(long, iv); err != nil || got != plain {
				t.Errorf("%q came back as %q, %v", plain, got, err)
			}
		}
		got, err := c.plainName(cipher, iv)
		if err != nil {
			if !errors.Is(err, ErrName) {
				t.Errorf("an error without a class: %v", err)
			}
			return
		}
		if entry, long := c.cipherName(got, iv); entry != cipher && long != cipher {
			t.Errorf("%q has two encrypted forms", got)
		}
	})
}
