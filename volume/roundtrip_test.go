package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// oddTree makes a directory with everything that a volume must carry.
func oddTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(dir, "deep/er/and/deeper"), 0o755))
	for i, size := range []int{0, 1, 4095, 4096, 4097, 8192, 64 * 4096, 64*4096 + 1, 300_000, 1 << 20} {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("size-%d", size)), randomBytes(size), os.FileMode(0o600|i)))
	}
	names := []string{
		"with space", "with\nnewline", "\xff\xfe not UTF-8", "ünïcödé", "-dash", "*", "gocryptfs.conf", "gocryptfs.diriv",
		strings.Repeat("l", 255), strings.Repeat("é", 127), strings.Repeat("k", 175), strings.Repeat("k", 176),
		"gocryptfs.longname.x", "a.name",
	}
	for _, name := range names {
		must(t, os.WriteFile(filepath.Join(dir, "deep", name), []byte("content of "+name), 0o640))
	}
	must(t, os.Mkdir(filepath.Join(dir, strings.Repeat("D", 250)), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("D", 250), strings.Repeat("F", 250)), []byte("x"), 0o444))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(5<<20))
	_, err = sparse.WriteAt([]byte("island"), 3<<20)
	must(t, err)
	must(t, sparse.Close())
	must(t, os.Link(filepath.Join(dir, "size-4097"), filepath.Join(dir, "deep/er/hard")))
	must(t, os.Link(filepath.Join(dir, "size-0"), filepath.Join(dir, "zz-hard-empty")))
	must(t, os.Symlink("../size-1", filepath.Join(dir, "deep/link")))
	must(t, os.Symlink("/nowhere/\xff/at all", filepath.Join(dir, "dangling")))
	must(t, os.Symlink(strings.Repeat("t/", 1500), filepath.Join(dir, "long-target")))
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "size-1"), 0o755|os.ModeSticky))
	must(t, os.Chmod(filepath.Join(dir, "empty"), 0o555|os.ModeSticky))
	must(t, os.Chtimes(filepath.Join(dir, "size-8192"), time.Time{}, time.Unix(1, 123456789)))
	must(t, os.Chtimes(filepath.Join(dir, "size-4096"), time.Time{}, time.Unix(-5, 5)))
	must(t, os.Chtimes(filepath.Join(dir, "deep"), time.Time{}, time.Unix(1e9, 987654321)))
	must(t, os.Chmod(filepath.Join(dir, "deep/er"), 0o555))
	return dir
}

func sealBytes(t testing.TB, input string, rcpt ...age.Recipient) (Sealed, []byte) {
	t.Helper()
	if len(rcpt) == 0 {
		rcpt = []age.Recipient{newIdentity(t).Recipient()}
	}
	var out bytes.Buffer
	s, err := Seal(context.Background(), &out, DirSource(input), SealOptions{Recipients: rcpt})
	must(t, err)
	return s, out.Bytes()
}

func openBytes(t testing.TB, b []byte, key Key) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(b), int64(len(b)), key)
	must(t, err)
	return r
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	dir := oddTree(t)
	id := newIdentity(t)
	s, b := sealBytes(t, dir, id.Recipient())
	if s.Size != int64(len(b)) {
		t.Errorf("Size %d, wrote %d", s.Size, len(b))
	}
	key, err := UnwrapKey(bytes.NewReader(b), s.Size, id)
	must(t, err)
	if !key.Equal(s.Key) {
		t.Error("keys.age holds another key")
	}
	r := openBytes(t, b, key)
	if r.ID() != s.ID || r.Digest() != s.Digest || r.Entries() != s.Entries {
		t.Error("Reader and Sealed differ")
	}
	vid, digest, err := ReadDigest(bytes.NewReader(b), s.Size)
	must(t, err)
	if vid != s.ID || digest != s.Digest {
		t.Error("ReadDigest and Sealed differ")
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, r.Extract(context.Background(), out, ExtractOptions{}))
	compareTrees(t, dir, out, true)
}
