package volume_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/klauspost/compress/zstd"
)

// This file is a second reader of sealed volumes, written from
// docs/sealed-volume.md alone. It holds everything in memory and shares no code
// with package volume; TestIndependentReaderIsIndependent sees to that.

// failure is a failure class of the document.
type failure string

func (f failure) Error() string { return string(f) }

// indieVolume is a volume that was read to its end.
type indieVolume struct {
	key, id  []byte
	digest   string
	checksum string
	lines    []string // as in vectors.json
}

// indieRead opens a volume with its keys.age and reads all of it. Its errors
// are failures.
func indieRead(b []byte, ids ...age.Identity) (v *indieVolume, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			v, err = nil, f
		}
	}()
	if len(b) < 1536 {
		panic(failure("footer"))
	}
	foot := indieFooter(b)
	key := indieKey(b, foot.id, ids)
	return indieOpen(b, foot, key), nil
}

func require(ok bool, class string) {
	if !ok {
		panic(failure(class))
	}
}

func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

type indieFoot struct {
	id             []byte
	offset, length uint64
}

// Section 2.
func indieFooter(b []byte) (f indieFoot) {
	size := uint64(len(b))
	raw := b[size-1536 : size-1024]
	require(string(raw[:16]) == "sealbatch volume", "footer")
	require(binary.BigEndian.Uint32(raw[16:]) == 1, "version")
	require(blank(raw[20:24]) && blank(raw[64:]), "footer")
	require(binary.BigEndian.Uint64(raw[40:]) == size, "size")
	f.id = raw[24:40]
	f.offset, f.length = binary.BigEndian.Uint64(raw[48:]), binary.BigEndian.Uint64(raw[56:])
	require(f.length >= 112 && f.length <= 112+1<<31 && f.offset < size && f.offset%512 == 0, "footer")
	require(f.offset+(f.length+511)/512*512+2048 == size, "footer")
	return f
}

// Section 3.
func indieKey(b, id []byte, ids []age.Identity) []byte {
	name, _, _ := strings.Cut(string(b[:100]), "\x00")
	require(name == "keys.age" && b[156] == '0', "key")
	size, err := strconv.ParseUint(strings.Trim(string(b[124:136]), " \x00"), 8, 32)
	require(err == nil && size <= 1<<20 && int(size) <= len(b)-512, "key")
	r, err := age.Decrypt(bytes.NewReader(b[512:512+size]), ids...)
	var none *age.NoIdentityMatchError
	require(!errors.As(err, &none), "identity")
	require(err == nil, "key")
	text, err := io.ReadAll(r)
	require(err == nil && len(text) <= 1024, "key")
	var doc struct{ Format, Volume, Key string }
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	require(d.Decode(&doc) == nil && doc.Format == "sealbatch-key-1", "key")
	_, err = d.Token()
	require(err == io.EOF, "key")
	require(doc.Volume == hex.EncodeToString(id) && strings.ToLower(doc.Key) == doc.Key, "key")
	key, err := hex.DecodeString(doc.Key)
	require(err == nil && len(key) == 32 && !blank(key), "key")
	return key
}

// Section 4.
func indieSubkey(key []byte, info string) []byte {
	k, err := hkdf.Key(sha256.New, key, nil, info, 32)
	require(err == nil, "key")
	return k
}

func indieGCM(key []byte, nonce int) cipher.AEAD {
	block, err := aes.NewCipher(key)
	require(err == nil, "key")
	a, err := cipher.NewGCMWithNonceSize(block, nonce)
	require(err == nil, "key")
	return a
}

// indieNode is a node of the tree.
type indieNode struct {
	typ       byte
	attr      string
	size, at  uint64
	target    string
	kids      map[string]int
	firstPath string
}

// Section 6, the header, and section 7.
func indieOpen(b []byte, foot indieFoot, key []byte) *indieVolume {
	index := b[foot.offset : foot.offset+foot.length]
	head := index[:96]
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(head[at:]) }
	require(string(head[:8]) == "SBINDEX1", "index")
	require(binary.BigEndian.Uint32(head[8:]) == 1, "version")
	require(blank(head[12:16]) && blank(head[84:]), "index")
	require(bytes.Equal(head[16:32], foot.id) && u64(32) == uint64(len(b)) && u64(40) == foot.offset, "index")
	entries, inflated, packed := u64(48), u64(56), u64(64)
	require(entries <= 1<<26 && inflated < 1<<32 && inflated >= 5*entries && packed == foot.length-112, "index")
	plain, err := indieGCM(indieSubkey(key, "sealbatch index v1"), 12).Open(nil, head[72:84], index[96:], head)
	require(err == nil, "index")
	zr, err := zstd.NewReader(bytes.NewReader(plain))
	require(err == nil, "index")
	defer zr.Close()
	records, err := io.ReadAll(io.LimitReader(zr, int64(inflated)+1))
	require(err == nil && uint64(len(records)) == inflated, "index")
	nodes := indieRecords(records, entries, foot.offset)
	digest := sha256.New()
	digest.Write([]byte{0, 0, 0, 1})
	digest.Write(foot.id)
	digest.Write(index)
	v := &indieVolume{key: key, id: foot.id, digest: fmt.Sprintf("sha256:%x", digest.Sum(nil)), checksum: indieChecksum(b)}
	w := indieWalk{b: b, nodes: nodes, v: v, content: indieGCM(indieSubkey(key, "AES-GCM file content encryption"), 16),
		ids: indieSubkey(key, "sealbatch file id v1")}
	v.lines = append(v.lines, ". directory "+nodes[0].attr)
	w.dir(0, "")
	return v
}

func indieChecksum(b []byte) string {
	sums := sha256.New()
	for segment := range slices.Chunk(b, 64<<20) {
		s := sha256.Sum256(segment)
		sums.Write(s[:])
	}
	return fmt.Sprintf("sha256:%x", sums.Sum(nil))
}

// indieCursor reads records.
type indieCursor struct{ b []byte }

func (c *indieCursor) number(limit uint64, class string) uint64 {
	n, used := binary.Uvarint(c.b)
	require(used > 0, "index")
	require(n <= limit, class)
	c.b = c.b[used:]
	return n
}

func (c *indieCursor) text(limit uint64) string {
	n := c.number(limit, "index")
	require(n <= uint64(len(c.b)), "index")
	s := string(c.b[:n])
	c.b = c.b[n:]
	return s
}

func (c *indieCursor) attr() string {
	mode := c.number(0o7777, "index")
	sec, used := binary.Varint(c.b)
	require(used > 0, "index")
	c.b = c.b[used:]
	return fmt.Sprintf("%04o %d.%09d", mode, sec, c.number(999_999_999, "index"))
}

// Section 6, the records.
func indieRecords(b []byte, entries, offset uint64) []*indieNode {
	c := &indieCursor{b}
	nodes := []*indieNode{{typ: 1, attr: c.attr(), kids: map[string]int{}}}
	var end uint64
	for range entries {
		require(len(c.b) > 0, "index")
		n := &indieNode{typ: c.b[0]}
		c.b = c.b[1:]
		parent := c.number(uint64(len(nodes)-1), "path")
		require(nodes[parent].typ == 1, "path")
		name := c.text(255)
		require(name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00"), "name")
		_, twice := nodes[parent].kids[name]
		number := len(nodes)
		require(n.typ >= 1 && n.typ <= 4, "index")
		if n.typ == 4 {
			number = int(c.number(uint64(len(nodes)-1), "path"))
			require(nodes[number].typ == 2, "path")
		} else {
			n.attr = c.attr()
			nodes = append(nodes, n)
		}
		switch n.typ {
		case 1:
			n.kids = map[string]int{}
		case 2:
			if n.size = c.number(1<<60, "index"); n.size > 0 {
				n.at = end + c.number(1<<60, "index")
				end = n.at + 18 + n.size + (n.size+4095)/4096*32
				require(n.at%512 == 0 && end <= offset, "index")
			}
		case 3:
			n.target = c.text(3039)
			require(n.target != "" && !strings.Contains(n.target, "\x00"), "name")
		}
		require(!twice, "path")
		nodes[parent].kids[name] = number
	}
	require(len(c.b) == 0, "index")
	return nodes
}

// indieWalk reads a tree's content.
type indieWalk struct {
	b       []byte
	nodes   []*indieNode
	v       *indieVolume
	content cipher.AEAD
	ids     []byte
}

func (w *indieWalk) dir(number int, prefix string) {
	kids := w.nodes[number].kids
	names := make([]string, 0, len(kids))
	for name := range kids {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		n := w.nodes[kids[name]]
		path := prefix + indieEscape(name)
		line := path + " " + []string{1: "directory", 2: "file", 3: "symbolic-link"}[n.typ] + " "
		switch {
		case n.firstPath != "":
			line += n.attr + " = " + n.firstPath
		case n.typ == 3:
			line += n.attr + " -> " + indieEscape(n.target)
		case n.typ == 2:
			n.firstPath = path
			line += fmt.Sprintf("%s %d %x", n.attr, n.size, sha256.Sum256(w.file(kids[name])))
		default:
			line += n.attr
		}
		w.v.lines = append(w.v.lines, line)
		if n.typ == 1 {
			w.dir(kids[name], path+"/")
		}
	}
}

// Section 5.
func (w *indieWalk) file(number int) (plain []byte) {
	n := w.nodes[number]
	if n.size == 0 {
		return nil
	}
	mac := hmac.New(sha256.New, w.ids)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(number)))
	id := mac.Sum(nil)[:16]
	raw := w.b[n.at : n.at+18+n.size+(n.size+4095)/4096*32]
	require(raw[0] == 0 && raw[1] == 2 && bytes.Equal(raw[2:18], id), "block")
	plain, number = make([]byte, 0, n.size), 0
	for block := range slices.Chunk(raw[18:], 4096+32) {
		aad := append(binary.BigEndian.AppendUint64(nil, uint64(number)), id...)
		p, err := w.content.Open(nil, block[:16], block[16:], aad)
		require(err == nil, "block")
		plain = append(plain, p...)
		number++
	}
	return plain
}

func indieEscape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c == '-' || c == '_' || c == '.' || c == '/' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// indieIdentity reads one of the vectors' identities.
func indieIdentity(t *testing.T, file string) []age.Identity {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../docs/vectors/keys", file))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := age.ParseIdentities(bytes.NewReader(b)); err == nil {
		return ids
	}
	id, err := agessh.ParseIdentity(b)
	if err != nil {
		t.Fatal(err)
	}
	return []age.Identity{id}
}

// TestIndependentReader reads every vector: what the document says is what the
// vectors hold.
func TestIndependentReader(t *testing.T) {
	t.Parallel()
	var f struct {
		Vectors []struct {
			File, Class, Identity, Key, ID, Digest, Checksum string
			Tree                                             []string
		}
	}
	b, err := os.ReadFile("../docs/vectors/vectors.json")
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil || len(f.Vectors) < 70 {
		t.Fatalf("%d vectors, %v", len(f.Vectors), err)
	}
	for _, v := range f.Vectors {
		b, err := os.ReadFile(filepath.Join("../docs/vectors", v.File))
		if err != nil {
			t.Fatal(err)
		}
		got, err := indieRead(b, indieIdentity(t, v.Identity)...)
		if v.Class != "" {
			if err != failure(v.Class) {
				t.Errorf("%s: %v, want class %s", v.File, err, v.Class)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.File, err)
			continue
		}
		if hex.EncodeToString(got.key) != v.Key || hex.EncodeToString(got.id) != v.ID || got.digest != v.Digest || got.checksum != v.Checksum {
			t.Errorf("%s: id %x, digest %s, checksum %s", v.File, got.id, got.digest, got.checksum)
		}
		if !slices.Equal(got.lines, v.Tree) {
			t.Errorf("%s: got\n%s\nwant\n%s", v.File, strings.Join(got.lines, "\n"), strings.Join(v.Tree, "\n"))
		}
	}
}

func TestIndependentReaderIsIndependent(t *testing.T) {
	t.Parallel()
	f, err := parser.ParseFile(token.NewFileSet(), "independent_test.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name.Name != "volume_test" || len(f.Imports) < 20 {
		t.Errorf("package %s with %d imports", f.Name.Name, len(f.Imports))
	}
	for _, i := range f.Imports {
		if strings.Contains(i.Path.Value, "sealbatch") || strings.Contains(i.Path.Value, "gocryptfs") {
			t.Errorf("it imports %s", i.Path.Value)
		}
	}
}
