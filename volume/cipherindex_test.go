package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var dirID = ID{1, 2, 3}

// indexDir writes the index of a cipher directory.
func indexDir(t testing.TB, cipher string, key Key, opt DirIndexOptions) (DirIndex, []byte) {
	t.Helper()
	c, err := OpenCipherDir(cipher, key)
	must(t, err)
	var b bytes.Buffer
	got, err := c.WriteIndex(context.Background(), &b, dirID, opt)
	must(t, err)
	if got.Size != int64(b.Len()) {
		t.Errorf("an index of %d bytes is said to have %d", b.Len(), got.Size)
	}
	return got, b.Bytes()
}

func openIndexed(t testing.TB, cipher string, index []byte, key Key) *Reader {
	t.Helper()
	r, err := OpenIndexed(cipher, index, dirID, key)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// checkIndexed: through its index, a cipher directory is the same tree.
func checkIndexed(t *testing.T, cipher string, key Key, want map[string]string) {
	t.Helper()
	info, index := indexDir(t, cipher, key, DirIndexOptions{})
	r := openIndexed(t, cipher, index, key)
	if r.Digest() != info.Digest || r.ID() != dirID || r.Entries() != info.Entries || info.Unread != 0 || r.Unread() != 0 {
		t.Errorf("index %+v, read as %v %v, %d entries, %d unread", info, r.ID(), r.Digest(), r.Entries(), r.Unread())
	}
	if _, err := r.Verify(context.Background(), VerifyOptions{}); err != nil {
		t.Error(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, r.Extract(context.Background(), out, ExtractOptions{}))
	got := describe(t, out, false)
	for path := range want {
		if want[path] != got[path] {
			t.Errorf("%.60q through the index:\nwant %.200q\ngot  %.200q", path, want[path], got[path])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries through the index, want %d", len(got), len(want))
	}
}

// bigTree is smallTree and a file of several segments.
func bigTree(t testing.TB) (cipher string, key Key, big string) {
	t.Helper()
	m := smallTree()
	big = string(randomBytes(2*segBlocks*plainBlock + 5000))
	m.file(0, "big", big, 1)
	s, b := sealFixed(t, m, 9)
	dir := filepath.Join(t.TempDir(), "c")
	must(t, os.Mkdir(dir, 0o700))
	untar(t, b, dir)
	return filepath.Join(dir, treeName), s.Key, big
}

func TestIndexedReadAt(t *testing.T) {
	t.Parallel()
	cipher, key, big := bigTree(t)
	_, index := indexDir(t, cipher, key, DirIndexOptions{})
	r := openIndexed(t, cipher, index, key)
	node, ok := r.Lookup(0, "big")
	if !ok {
		t.Fatal("no big file")
	}
	const seg = segBlocks * plainBlock
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		off, n := rnd.Int64N(int64(len(big))), rnd.IntN(3*seg)
		if i < 12 { // around the edges
			off, n = []int64{0, seg - 1, seg, seg + 1, 2*seg - 4096, int64(len(big)) - 1}[i%6], []int{1, 4097}[i%2]
		}
		p := make([]byte, n)
		got, err := r.ReadAt(node, p, off)
		want := big[off:min(int64(len(big)), off+int64(n))]
		if string(p[:got]) != want || (err != nil && !errors.Is(err, io.EOF)) || (errors.Is(err, io.EOF) != (len(want) < n)) {
			t.Fatalf("%d bytes from %d: %d bytes, %v", n, off, got, err)
		}
	}
	if n, err := r.ReadAt(node, make([]byte, 1), int64(len(big))); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	paths := r.CipherPaths()
	for path, size := range paths {
		fi, err := os.Lstat(filepath.Join(cipher, path))
		must(t, err)
		if (size == -1) != fi.IsDir() || (size == -2) != (fi.Mode()&os.ModeSymlink != 0) || (size >= 0 && size != fi.Size()) {
			t.Errorf("%s is %v with %d bytes, want %d", path, fi.Mode(), fi.Size(), size)
		}
	}
	if len(paths) != r.Entries() {
		t.Errorf("%d paths of %d", len(paths), r.Entries())
	}
}

// attack is something that somebody who can write the storage does to a cipher
// directory after it was indexed.
type attack struct {
	do   func(t *testing.T, at func(path string) string)
	want error
	path string // that has to be named
	lost string // the file that cannot be opened any more; "" if all can
	// unread: it is found even where the index has no digests.
	unread bool
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	must(t, errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)))
}

func attacks() map[string]attack {
	type at = func(string) string
	return map[string]attack{
		"two files exchanged": {func(t *testing.T, at at) {
			a, b := read(t, at("dir/twin-1")), read(t, at("dir/twin-2"))
			overwrite(t, at("dir/twin-1"), b)
			overwrite(t, at("dir/twin-2"), a)
		}, ErrBlock, "dir/twin-1", "dir/twin-1", true},
		"a block rolled back": {func(t *testing.T, at at) { // to the genuine one of an older version, written with the same id
			b := read(t, at("big"))
			copy(b[headerSize+cipherBlock:], older)
			overwrite(t, at("big"), b)
		}, ErrBlock, "big", "big", false},
		"a block zeroed": {func(t *testing.T, at at) {
			b := read(t, at("big"))
			clear(b[headerSize+cipherBlock*300:][:cipherBlock])
			overwrite(t, at("big"), b)
		}, ErrBlock, "big", "big", false},
		"blocks exchanged": {func(t *testing.T, at at) {
			b := read(t, at("big"))
			one, two := b[headerSize:][:cipherBlock], b[headerSize+cipherBlock:][:cipherBlock]
			for i := range one {
				one[i], two[i] = two[i], one[i]
			}
			overwrite(t, at("big"), b)
		}, ErrBlock, "big", "big", true},
		"a whole file zeroed": {func(t *testing.T, at at) {
			overwrite(t, at("dir/twin-1"), make([]byte, len(read(t, at("dir/twin-1")))))
		}, ErrBlock, "dir/twin-1", "dir/twin-1", true},
		"a bit flipped": {func(t *testing.T, at at) {
			b := read(t, at("big"))
			b[len(b)-1] ^= 1
			overwrite(t, at("big"), b)
		}, ErrBlock, "big", "big", true},
		"cut at a block": {func(t *testing.T, at at) {
			must(t, os.Truncate(at("dir/twin-1"), headerSize+cipherBlock))
		}, ErrSize, "dir/twin-1", "dir/twin-1", true},
		"cut to nothing": {func(t *testing.T, at at) {
			must(t, os.Truncate(at("dir/twin-2"), 0))
		}, ErrSize, "dir/twin-2", "dir/twin-2", true},
		"lengthened": {func(t *testing.T, at at) {
			overwrite(t, at("dir/twin-1"), append(read(t, at("dir/twin-1")), "more"...))
		}, ErrSize, "dir/twin-1", "", true},
		"an empty file filled": {func(t *testing.T, at at) {
			overwrite(t, at("b"), read(t, at("dir/twin-1")))
		}, ErrSize, "b", "", true},
		"a file removed": {func(t *testing.T, at at) { must(t, os.Remove(at("dir/twin-1"))) }, ErrMissing, "dir/twin-1", "dir/twin-1", true},
		"a file renamed": {func(t *testing.T, at at) {
			must(t, os.Rename(at("dir/twin-1"), at("dir/other")))
		}, ErrAdded, "dir/other", "dir/twin-1", true},
		"a file added": {func(t *testing.T, at at) {
			must(t, os.WriteFile(at("dir/new"), read(t, at("dir/twin-1")), 0o600))
		}, ErrAdded, "dir/new", "", true},
		"an unencrypted file added": {func(t *testing.T, at at) {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(at("dir/x")), "plain"), nil, 0o600))
		}, ErrAdded, "dir/plain", "", true},
		"a directory added":   {func(t *testing.T, at at) { must(t, os.Mkdir(at("dir/new"), 0o700)) }, ErrAdded, "dir/new", "", true},
		"a directory removed": {func(t *testing.T, at at) { must(t, os.RemoveAll(at("dir"))) }, ErrMissing, "dir", "dir/twin-1", true},
		"a link's target exchanged": {func(t *testing.T, at at) {
			must(t, os.Remove(at("dir/link")))
			must(t, os.Symlink(otherTarget, at("dir/link")))
		}, ErrBlock, "dir/link", "", true},
		"a link removed": {func(t *testing.T, at at) { must(t, os.Remove(at("dir/link"))) }, ErrMissing, "dir/link", "", true},
		"a file became a link out": {func(t *testing.T, at at) {
			must(t, os.Remove(at("dir/twin-1")))
			must(t, os.Symlink("/etc/passwd", at("dir/twin-1")))
		}, ErrMissing, "dir/twin-1", "dir/twin-1", true},
		"a file became a pipe": {func(t *testing.T, at at) {
			must(t, errors.Join(os.Remove(at("dir/twin-1")), syscall.Mkfifo(at("dir/twin-1"), 0o600)))
		}, ErrMissing, "dir/twin-1", "dir/twin-1", true},
		"a directory became a link": {func(t *testing.T, at at) {
			dir := at("dir")
			must(t, os.Rename(dir, dir+"-old"))
			must(t, os.Symlink("/etc", dir))
		}, ErrMissing, "dir", "dir/twin-1", true},
	}
}

// older is a genuine block of an older version of big; otherTarget a genuine
// link target. Both are made with the key and id of bigTree.
var (
	older       []byte
	otherTarget string
)

// TestIndexedAttacks: whatever is done to an indexed cipher directory is found
// and named, and never ends in wrong plaintext.
func TestIndexedAttacks(t *testing.T) {
	cipher, key, big := bigTree(t)
	older, otherTarget = genuine(t, cipher, key)
	for name, a := range attacks() {
		for _, unread := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, without digests %v", name, unread), func(t *testing.T) {
				copied := filepath.Join(t.TempDir(), "copy")
				out, err := exec.Command("cp", "-a", cipher, copied).CombinedOutput()
				if err != nil {
					t.Fatalf("cp: %v\n%s", err, out)
				}
				_, index := indexDir(t, copied, key, DirIndexOptions{More: func() bool { return !unread }})
				a.do(t, func(path string) string { return cipherPath(t, copied, key, path) })
				r := openIndexed(t, copied, index, key)
				rep, err := r.Verify(context.Background(), VerifyOptions{})
				if unread && !a.unread {
					if err != nil || rep.Unread == 0 {
						t.Errorf("it is not expected to be found: %v, %d unread", err, rep.Unread)
					}
					return
				}
				if !errors.Is(err, ErrIntegrity) {
					t.Errorf("Verify: %v", err)
				}
				if !slices.ContainsFunc(rep.Damaged, func(d Damage) bool { return d.Path == a.path && errors.Is(d.Err, a.want) }) {
					t.Errorf("not named: %v", rep.Damaged)
				}
				extractDamaged(t, r, a, big)
			})
		}
	}
}

// extractDamaged opens all but the file that is lost.
func extractDamaged(t *testing.T, r *Reader, a attack, big string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	err := r.Extract(context.Background(), out, ExtractOptions{})
	if (err == nil) != (a.lost == "") || (err != nil && !errors.Is(err, ErrIntegrity)) {
		t.Errorf("strict extraction: %v", err)
	}
	out += "-2"
	damaged := make(chan string, 10)
	must(t, r.Extract(context.Background(), out, ExtractOptions{LeaveOut: true, Damaged: func(p string, _ error) { damaged <- p }}))
	close(damaged)
	var named []string
	for p := range damaged {
		named = append(named, p)
	}
	if a.lost != "" && !slices.Contains(named, a.lost) {
		t.Errorf("left out: %q, want %q", named, a.lost)
	}
	small := smallTree()
	for path, want := range map[string]string{
		"a": small.content["a"], "b": "", "big": big, "dir/twin-1": small.content["twin-1"], "dir/twin-2": small.content["twin-2"],
		"dir/hard": small.content["a"],
	} {
		b, err := os.ReadFile(filepath.Join(out, path))
		if slices.Contains(named, path) {
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is not left out: %q, %v", path, b, err)
			}
		} else if err != nil || string(b) != want {
			t.Errorf("%s holds %.30q, %v", path, b, err)
		}
	}
	if l, err := os.Readlink(filepath.Join(out, "dir/link")); err != nil || l != "../a" {
		t.Errorf("link: %q, %v", l, err)
	}
	if _, err := os.Lstat(filepath.Join(out, "dir/new")); err == nil {
		t.Error("what was added was opened")
	}
}

// genuine makes what a job could have written earlier.
func genuine(t *testing.T, cipher string, key Key) (block []byte, target string) {
	t.Helper()
	c, err := newCodec(key)
	must(t, err)
	id, err := parseFileHeader(read(t, cipherPath(t, cipher, key, "big")))
	must(t, err)
	nonce := randomBytes(nonceSize)
	var aad additional
	block = c.content.Seal(slices.Clone(nonce), nonce, make([]byte, plainBlock), aad.set(1, id))
	return block, c.cipherTarget("/etc/passwd", nonce)
}

// TestLeaveOutHardLinks: a damaged file goes under all of its names.
func TestLeaveOutHardLinks(t *testing.T) {
	t.Parallel()
	cipher, key, _ := bigTree(t)
	_, index := indexDir(t, cipher, key, DirIndexOptions{})
	overwrite(t, cipherPath(t, cipher, key, "a"), []byte("short"))
	r := openIndexed(t, cipher, index, key)
	out := filepath.Join(t.TempDir(), "out")
	must(t, r.Extract(context.Background(), out, ExtractOptions{LeaveOut: true, Damaged: func(string, error) {}}))
	for _, name := range []string{"a", "dir/hard"} {
		if _, err := os.Lstat(filepath.Join(out, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if rep, err := r.Verify(context.Background(), VerifyOptions{NamesOnly: true}); !errors.Is(err, ErrSize) || len(rep.Damaged) != 2 {
		t.Errorf("NamesOnly: %v, %v", rep.Damaged, err)
	}
}

// TestIndexTornFiles: what a killed gocryptfs leaves is indexed as far as it is whole.
func TestIndexTornFiles(t *testing.T) {
	t.Parallel()
	cipher, key, _ := bigTree(t)
	must(t, os.Truncate(cipherPath(t, cipher, key, "dir/twin-1"), headerSize+cipherBlock+7))
	must(t, os.Truncate(cipherPath(t, cipher, key, "dir/twin-2"), 7))
	must(t, os.Truncate(cipherPath(t, cipher, key, "b"), 0))
	overwrite(t, cipherPath(t, cipher, key, "b"), append([]byte{0, 2}, bytes.Repeat([]byte{9}, fileIDSize)...))
	must(t, os.WriteFile(filepath.Join(cipher, "plain"), nil, 0o600))
	// One that was written in part can have a length that whole ones have, too.
	must(t, os.Truncate(cipherPath(t, cipher, key, "big"), headerSize+2*cipherBlock+1000))
	must(t, os.Truncate(cipherPath(t, cipher, key, "a"), headerSize+overhead+1))
	c, err := OpenCipherDir(cipher, key)
	must(t, err)
	if _, err := c.WriteIndex(context.Background(), io.Discard, dirID, DirIndexOptions{}); !errors.Is(err, ErrIntegrity) {
		t.Errorf("without Damaged: %v", err)
	}
	var named []string
	info, index := indexDir(t, cipher, key, DirIndexOptions{Damaged: func(path string, err error) {
		if !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", path, err)
		}
		named = append(named, path)
	}})
	slices.Sort(named)
	if !slices.Equal(named, []string{"a", "big", "dir/twin-1", "dir/twin-2", "plain"}) || info.Unread != 0 || info.Files != 5 {
		t.Errorf("damaged %q, %+v", named, info)
	}
	r := openIndexed(t, cipher, index, key)
	if rep, err := r.Verify(context.Background(), VerifyOptions{}); !errors.Is(err, ErrAdded) || len(rep.Damaged) != 1 {
		t.Errorf("Verify: %v, %v", rep.Damaged, err)
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, r.Extract(context.Background(), out, ExtractOptions{}))
	for path, want := range map[string]int{"dir/twin-1": plainBlock, "dir/twin-2": 0, "b": 0, "big": 2 * plainBlock, "a": 0, "dir/hard": 0} {
		if b, err := os.ReadFile(filepath.Join(out, path)); err != nil || len(b) != want {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
}

// TestIndexRunsOutOfTime: files beyond the time have an id and a size.
func TestIndexRunsOutOfTime(t *testing.T) {
	t.Parallel()
	cipher, key, _ := bigTree(t)
	asked := 0
	info, index := indexDir(t, cipher, key, DirIndexOptions{More: func() bool { asked++; return asked <= 2 }})
	// In order: a, b (empty), big: three segments, of which one is read; the twins.
	if info.Files != 5 || info.Unread != 3 || asked != 3 {
		t.Errorf("%+v, asked %d times", info, asked)
	}
	r := openIndexed(t, cipher, index, key)
	if got := r.UnreadPaths(10); r.Unread() != 3 || !slices.Equal(got, []string{"big", "dir/twin-1", "dir/twin-2"}) ||
		len(r.UnreadPaths(2)) != 2 {
		t.Errorf("%d unread: %q", r.Unread(), got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c, err := OpenCipherDir(cipher, key)
	must(t, err)
	if _, err := c.WriteIndex(ctx, io.Discard, dirID, DirIndexOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOpenIndexedRefuses(t *testing.T) {
	t.Parallel()
	cipher, key := unpackedTree(t)
	info, index := indexDir(t, cipher, key, DirIndexOptions{})
	for at := range index {
		bad := slices.Clone(index)
		bad[at] ^= 1
		r, err := OpenIndexed(cipher, bad, dirID, key)
		if err == nil {
			t.Fatalf("byte %d flipped: opened, digest %v, was %v", at, r.Digest(), info.Digest)
		}
		if !hasClass(err) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
	for n := range index {
		if _, err := OpenIndexed(cipher, index[:n], dirID, key); !hasClass(err) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	other, err := NewKey()
	must(t, err)
	for what, open := range map[string]func() (*Reader, error){
		"longer":     func() (*Reader, error) { return OpenIndexed(cipher, append(slices.Clone(index), 0), dirID, key) },
		"other id":   func() (*Reader, error) { return OpenIndexed(cipher, index, ID{9}, key) },
		"other key":  func() (*Reader, error) { return OpenIndexed(cipher, index, dirID, other) },
		"no key":     func() (*Reader, error) { return OpenIndexed(cipher, index, dirID, Key{}) },
		"not there":  func() (*Reader, error) { return OpenIndexed(cipher+"x", index, dirID, key) },
		"not a tree": func() (*Reader, error) { return OpenIndexed(cipher, []byte(strings.Repeat("x", 200)), dirID, key) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
	// An index is not taken for a sealed volume's, nor the other way round.
	s, sealed := sealFixed(t, smallTree(), 9)
	f, err := readFooter(bytes.NewReader(sealed), int64(len(sealed)))
	must(t, err)
	if _, err := OpenIndexed(cipher, sealed[f.offset:f.offset+f.length], s.ID, s.Key); !errors.Is(err, ErrIndex) {
		t.Errorf("a sealed volume's index: %v", err)
	}
}
