package volume

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

// The vectors of docs/vectors are described in docs/vectors/README.md. Their
// ciphertext is reproducible, all randomness being drawn from fixed seeds, but
// for keys.age, which age makes: once written, that part is kept.

const vectorsDir = "../docs/vectors"

// vectorFile is docs/vectors/vectors.json.
type vectorFile struct {
	About     string         `json:"about"`
	Vectors   []formatVector `json:"vectors"`
	Checksums []zerosSum     `json:"checksums"`
}

// formatVector is one sealed volume and what a reader must make of it.
type formatVector struct {
	File     string `json:"file"`
	Why      string `json:"why"`
	Class    string `json:"class,omitempty"` // of the failure; none for a good one
	Identity string `json:"identity"`        // a file below keys
	// The rest is given for good vectors. Tree has one line for each name.
	Key      string   `json:"key,omitempty"`
	ID       string   `json:"id,omitempty"`
	Digest   string   `json:"digest,omitempty"`
	Checksum string   `json:"checksum,omitempty"`
	Tree     []string `json:"tree,omitempty"`
}

// zerosSum is the checksum of a file of zeros.
type zerosSum struct {
	Zeros    int64  `json:"zeros"`
	Checksum string `json:"checksum"`
}

// classOf names the failure class of an error as docs/sealed-volume.md does.
func classOf(err error) string {
	for _, c := range []struct {
		err  error
		name string
	}{
		{nil, ""}, {ErrVersion, "version"}, {ErrFooter, "footer"}, {ErrSize, "size"}, {ErrPath, "path"},
		{ErrName, "name"}, {ErrBlock, "block"}, {ErrIndex, "index"}, {ErrNoIdentity, "identity"}, {ErrKey, "key"},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "none: " + err.Error()
}

// treeLines describes a volume in the form of vectors.json.
func treeLines(r *Reader) ([]string, error) {
	var out []string
	paths := map[uint32]string{}
	var next uint32
	err := r.Walk(context.Background(), func(e Entry) (uint32, error) {
		node := next
		if e.IsLink {
			node = e.Link
		} else {
			next++
		}
		path := escapeVector(e.Name)
		if e.Parent != 0 {
			path = paths[e.Parent] + "/" + path
		}
		if node != 0 && !e.IsLink {
			paths[node] = path
		}
		if node == 0 {
			path = "."
		}
		a := e.Attr
		line := fmt.Sprintf("%s %s %04o %d.%09d", path, strings.ReplaceAll(a.Type.String(), " ", "-"), a.Mode,
			a.Mtime.Unix(), a.Mtime.Nanosecond())
		switch {
		case e.IsLink:
			line += " = " + paths[e.Link]
		case a.Type == Symlink:
			line += " -> " + escapeVector(e.Target)
		case a.Type == File:
			c, err := e.Open()
			if err != nil {
				return 0, err
			}
			b, err := io.ReadAll(c)
			if err != nil {
				return 0, err
			}
			line += fmt.Sprintf(" %d %x", a.Size, sha256.Sum256(b))
		}
		out = append(out, line)
		return node, nil
	})
	return out, err
}

// escapeVector writes bytes other than letters, digits, '-', '_', '.' and '/' as
// %XX.
func escapeVector(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_./", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// vectorIdentity reads an identity of the vectors.
func vectorIdentity(t testing.TB, name string) []age.Identity {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorsDir, "keys", name))
	must(t, err)
	file := filepath.Join(t.TempDir(), name) // in a checkout, everybody can read it
	must(t, os.WriteFile(file, b, 0o600))
	ids, err := ParseIdentityFile(file, nil, nil)
	must(t, err)
	return ids
}

// readVector does everything a reader can do with a volume.
func readVector(b []byte, ids []age.Identity) (Key, *Reader, []string, error) {
	at, size := bytes.NewReader(b), int64(len(b))
	key, err := UnwrapKey(at, size, ids...)
	if err != nil {
		return Key{}, nil, nil, err
	}
	r, err := Open(at, size, key)
	if err != nil {
		return Key{}, nil, nil, err
	}
	lines, err := treeLines(r)
	return key, r, lines, err
}

// TestVectors reads every vector of docs/vectors. With -update it first writes
// those that are missing or differ from what this package makes now: a good
// vector that is there is never written anew, since it has to stay readable.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	var f vectorFile
	b, err := os.ReadFile(filepath.Join(vectorsDir, "vectors.json"))
	must(t, err)
	must(t, json.Unmarshal(b, &f))
	classes := map[string]int{}
	for _, v := range f.Vectors {
		classes[v.Class]++
		checkVector(t, v)
	}
	for _, c := range []string{"", "footer", "index", "key", "identity", "block", "size", "name", "path", "version"} {
		if classes[c] < 2 {
			t.Errorf("%d vectors of class %q", classes[c], c)
		}
	}
	files, err := filepath.Glob(filepath.Join(vectorsDir, "*.sealed"))
	must(t, err)
	if len(files) != len(f.Vectors) {
		t.Errorf("%d files, vectors.json has %d", len(files), len(f.Vectors))
	}
	for _, z := range f.Checksums {
		if got := checksumOfZeros(z.Zeros); got.String() != z.Checksum {
			t.Errorf("checksum of %d zeros: %v", z.Zeros, got)
		}
	}
	if table, err := os.ReadFile(filepath.Join(vectorsDir, "README.md")); err != nil || string(table) != vectorsReadme(f) {
		t.Errorf("docs/vectors/README.md is not up to date (%v): go test ./volume -run TestVectors -update", err)
	}
}

func checkVector(t *testing.T, v formatVector) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorsDir, v.File))
	must(t, err)
	key, r, lines, err := readVector(b, vectorIdentity(t, v.Identity))
	if got := classOf(err); got != v.Class {
		t.Errorf("%s: class %q, want %q (%v)", v.File, got, v.Class, err)
		return
	}
	if err != nil {
		return
	}
	rep, err := r.Verify(context.Background(), VerifyOptions{})
	must(t, err)
	if key.Hex() != v.Key || r.ID().String() != v.ID || r.Digest().String() != v.Digest || rep.Checksum.String() != v.Checksum {
		t.Errorf("%s: it reads as %s %s", v.File, r.ID(), r.Digest())
	}
	if got, want := strings.Join(lines, "\n"), strings.Join(v.Tree, "\n"); got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", v.File, got, want)
	}
}

// TestVectorsSealAlike seals the good vectors anew: the same input and the same
// randomness give the same bytes.
func TestVectorsSealAlike(t *testing.T) {
	t.Parallel()
	for _, g := range goodVectors() {
		stored, err := os.ReadFile(filepath.Join(vectorsDir, g.name+".sealed"))
		must(t, err)
		if _, b := g.seal(t, keysOf(t, stored)); !bytes.Equal(b, stored) {
			t.Errorf("%s: sealing gives other bytes", g.name)
		}
	}
}

func checksumOfZeros(n int64) Digest {
	var h segmentHash
	block := make([]byte, 1<<20)
	for ; n > 0; n -= min(n, 1<<20) {
		h.Write(block[:min(n, 1<<20)])
	}
	return ChecksumOf(h.finish())
}

// keysOf returns the content of a volume's keys.age, nil if there is no volume.
func keysOf(t testing.TB, b []byte) []byte {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	size := 0
	_, err := fmt.Sscanf(string(b[124:135]), "%o", &size)
	must(t, err)
	return b[tarBlock : tarBlock+size]
}

// writeVectors writes what is missing or has changed.
func writeVectors(t *testing.T) {
	t.Helper()
	writeVectorKeys(t)
	f := vectorFile{
		About: "See README.md. Each line of a tree: path, type, mode, mtime, and then: for a file size and SHA-256, " +
			"for a symbolic link its target, for a further name of a file that file's path. " +
			"Bytes of names and targets other than letters, digits, '-', '_', '.' and '/' are written as %XX.",
	}
	for _, g := range goodVectors() {
		path := filepath.Join(vectorsDir, g.name+".sealed")
		stored, err := os.ReadFile(path)
		if err != nil {
			_, stored = g.seal(t, nil)
			must(t, os.WriteFile(path, stored, 0o644))
		}
		key, r, lines, err := readVector(stored, vectorIdentity(t, g.identity))
		must(t, err)
		rep, err := r.Verify(context.Background(), VerifyOptions{})
		must(t, err)
		f.Vectors = append(f.Vectors, formatVector{
			File: g.name + ".sealed", Why: g.why, Identity: g.identity, Key: key.Hex(), ID: r.ID().String(),
			Digest: r.Digest().String(), Checksum: rep.Checksum.String(), Tree: lines,
		})
	}
	for _, bad := range badVectors(t) {
		must(t, os.WriteFile(filepath.Join(vectorsDir, bad.File), bad.bytes, 0o644))
		f.Vectors = append(f.Vectors, bad.formatVector)
	}
	for _, n := range []int64{0, 1, SegmentSize - 1, SegmentSize, SegmentSize + 1, 2 * SegmentSize} {
		f.Checksums = append(f.Checksums, zerosSum{n, checksumOfZeros(n).String()})
	}
	b, err := json.MarshalIndent(f, "", "  ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(vectorsDir, "vectors.json"), append(b, '\n'), 0o644))
	must(t, os.WriteFile(filepath.Join(vectorsDir, "README.md"), []byte(vectorsReadme(f)), 0o644))
}

// writeVectorKeys makes the identities, if they are missing.
func writeVectorKeys(t *testing.T) {
	t.Helper()
	dir := filepath.Join(vectorsDir, "keys")
	must(t, os.MkdirAll(dir, 0o755))
	missing := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err != nil
	}
	for _, name := range []string{"x25519", "stranger"} {
		if missing(name) {
			id := newIdentity(t)
			text := fmt.Sprintf("# a test key: it protects nothing\n# public key: %s\n%s\n", id.Recipient(), id)
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	if missing("ssh-ed25519") {
		_, priv, err := ed25519.GenerateKey(nil)
		must(t, err)
		block, err := ssh.MarshalPrivateKey(priv, "a test key: it protects nothing")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "ssh-ed25519"), pem.EncodeToMemory(block), 0o644))
	}
}

func vectorsReadme(f vectorFile) string {
	var b strings.Builder
	b.WriteString(`# Test vectors of the sealed volume

Small sealed volumes (format 1, see [sealed-volume.md](../sealed-volume.md)) to test a reader with.
The identities that open them lie in keys/: **they are test keys and protect nothing.**
sealbatch takes them only from a file of mode 0600.

[vectors.json](vectors.json) says for each volume which identity to use, and for a good one master key, id,
digest, checksum and the whole tree. A bad one must be refused with the failure class that stands in
its name, at the latest when everything in it has been read. vectors.json also has checksums of files
of zeros around the edges of segments.

Good vectors are never changed: every version of sealbatch reads them. Bad ones and this page are made
by ` + "`go test ./volume -run TestVectors -update`" + `, which adds vectors and keeps good ones.

| file | must give | what it is |
|---|---|---|
`)
	for _, v := range f.Vectors {
		class := v.Class
		if class == "" {
			class = "its tree"
		}
		fmt.Fprintf(&b, "| [%s](%s) | %s | %s |\n", v.File, v.File, class, v.Why)
	}
	return b.String()
}

// goodVector is the recipe of a good vector.
type goodVector struct {
	name, why, identity string
	seed                byte
	src                 memSource
	recipients          []string // identities that open it
}

// seal makes the vector with the keys.age given, or with a new one if that is nil.
func (g goodVector) seal(t testing.TB, keys []byte) (Sealed, []byte) {
	t.Helper()
	wrap := func(w io.Writer, id ID, key Key, _ ...age.Recipient) error {
		if keys != nil {
			_, err := w.Write(keys)
			return err
		}
		return WrapKey(w, id, key, g.rcpts(t)...)
	}
	var out bytes.Buffer
	s, err := sealer{random: rand.NewChaCha8([32]byte{g.seed, 'v'}), wrap: wrap}.seal(context.Background(), &out, g.src, SealOptions{})
	must(t, err)
	return s, out.Bytes()
}

func (g goodVector) rcpts(t testing.TB) (out []age.Recipient) {
	t.Helper()
	for _, name := range g.recipients {
		b, err := os.ReadFile(filepath.Join(vectorsDir, "keys", name))
		must(t, err)
		arg := ""
		if key, err := ssh.ParsePrivateKey(b); err == nil {
			arg = string(ssh.MarshalAuthorizedKey(key.PublicKey()))
		} else {
			_, arg, _ = strings.Cut(string(b), "# public key: ")
			arg, _, _ = strings.Cut(arg, "\n")
		}
		r, err := ParseRecipients([]string{strings.TrimSpace(arg)})
		must(t, err)
		out = append(out, r...)
	}
	return out
}

// pattern is n bytes that differ in every block.
func pattern(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), 'p'}).Read(b)
	return string(b)
}

func (m *memSource) add(e Entry) uint32 {
	m.entries = append(m.entries, e)
	return uint32(len(m.entries) - 1)
}

func memLink(parent uint32, name, target string) Entry {
	return Entry{Parent: parent, Name: name, Target: target, Attr: Attr{Type: Symlink, Mode: 0o777, Mtime: fixedTime, Nlink: 1}}
}

// goodVectors lists the good vectors. What one is made of never changes.
func goodVectors() []goodVector {
	root := func() memSource { return memSource{entries: []Entry{memDir(0, "")}} }
	x := []string{"x25519"}
	one := root()
	one.file(0, "image.sif", "a small image\n", 1)
	sizes := root()
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192} {
		sizes.file(0, fmt.Sprintf("size-%d", n), pattern(n), 1)
	}
	links := root()
	links.file(0, "first", "one file, three names\n", 3) // node 1
	d := links.add(memDir(0, "sub"))                     // node 2
	links.add(Entry{Parent: d, Name: "second", IsLink: true, Link: 1})
	links.add(memLink(d, "up", "../first"))
	links.add(memLink(0, "dangling", "/nowhere/\xff\n"))
	links.add(memLink(0, "long", strings.Repeat("t/", maxTarget/2)))
	links.add(Entry{Parent: 0, Name: "third", IsLink: true, Link: 1})
	deep := root()
	var at uint32
	for i := range 12 {
		at = deep.add(memDir(at, fmt.Sprintf("level-%02d", i)))
	}
	deep.file(at, "bottom", "deep down\n", 1)
	names := root()
	for i, n := range []string{
		"-rf", "new\nline", "\xff\xfe invalid UTF-8", "gocryptfs.conf", "gocryptfs.diriv", "gocryptfs.longname.x",
		strings.Repeat("e", 175), strings.Repeat("l", 176), strings.Repeat("m", 255), "$(touch x)", "quote'\"`", "ü", "u\u0308",
	} {
		names.file(0, n, fmt.Sprintf("name %d\n", i), 1)
	}
	times := root()
	times.file(0, "before 1970", "-", 1)
	times.file(0, "far", "+", 1)
	times.file(0, "setuid", "s", 1)
	times.entries[1].Attr.Mtime = time.Unix(-5, 5)
	times.entries[2].Attr.Mtime = time.Unix(253_402_300_800, 999_999_999)
	times.entries[3].Attr.Mode = 0o6755
	times.entries = append(times.entries, Entry{Name: "sticky", Attr: Attr{Type: Dir, Mode: 0o1777, Mtime: time.Unix(0, 0)}})
	return []goodVector{
		{"good-empty", "an empty directory", "x25519", 1, root(), x},
		{"good-one", "one file of 14 bytes", "x25519", 2, one, x},
		{"good-one-other", "the same file under another key", "x25519", 3, one, x},
		{"good-sizes", "sizes around the edges of blocks", "x25519", 4, sizes, x},
		{"good-links", "hard and symbolic links, a target of 3038 bytes", "x25519", 5, links, x},
		{"good-deep", "12 directories deep: paths in PAX records", "x25519", 6, deep, x},
		{"good-names", "long, strange and invalid names", "x25519", 7, names, x},
		{"good-times", "times before 1970 and after 9999, all mode bits", "x25519", 8, times, x},
		{"good-ssh-ed25519", "for an ssh-ed25519 recipient", "ssh-ed25519", 9, one, []string{"ssh-ed25519"}},
		{"good-recipients", "for three recipients", "ssh-ed25519", 10, one, []string{"stranger", "x25519", "ssh-ed25519"}},
	}
}
