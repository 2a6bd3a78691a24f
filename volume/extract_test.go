package volume

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestExtractTarget(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	r := openBytes(t, b, s.Key)
	ctx := context.Background()

	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.Mkdir(empty, 0o700))
	must(t, r.Extract(ctx, empty, ExtractOptions{}))
	if _, err := os.Stat(filepath.Join(empty, "dir", "hard")); err != nil {
		t.Error(err)
	}
	if err := r.Extract(ctx, empty, ExtractOptions{}); !errors.Is(err, ErrPath) {
		t.Errorf("into a full directory: %v", err)
	}
	left := filepath.Join(t.TempDir(), "left")
	must(t, os.WriteFile(left+".partial", []byte("precious"), 0o600))
	must(t, r.Extract(ctx, left, ExtractOptions{}))
	if b, err := os.ReadFile(left + ".partial"); err != nil || string(b) != "precious" {
		t.Errorf("what lies beside it is %q, %v", b, err)
	}
}

func TestExtractFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	s, b := sealFixed(t, smallTree(), 1)
	r := openBytes(t, b, s.Key)
	dir, _ := r.Lookup(0, "dir")
	node, _ := r.Lookup(dir, "twin-2")
	b[r.t.nodes[node].at+headerSize+cipherBlock+20] ^= 1
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	err := r.Extract(context.Background(), out, ExtractOptions{})
	if !errors.Is(err, ErrBlock) || !strings.Contains(err.Error(), "dir/twin-2") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(parent); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	var damaged []string
	must(t, r.Extract(context.Background(), out, ExtractOptions{
		Damaged: func(path string, err error) {
			if !errors.Is(err, ErrBlock) {
				t.Errorf("%s: %v", path, err)
			}
			damaged = append(damaged, path)
		},
	}))
	fi, err := os.Stat(filepath.Join(out, "dir", "twin-2"))
	must(t, err)
	if len(damaged) != 1 || damaged[0] != "dir/twin-2" || fi.Size() != plainBlock {
		t.Errorf("damaged %v, %d bytes kept", damaged, fi.Size())
	}
}

func TestExtractSetID(t *testing.T) {
	t.Parallel()
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "tool", "x", 1)
	src.entries[1].Attr.Mode = 0o6755
	s, b := sealFixed(t, src, 1)
	r := openBytes(t, b, s.Key)
	node, _ := r.Lookup(0, "tool")
	if got := r.Attr(node).Mode; got != 0o6755 {
		t.Errorf("the volume has mode %o", got)
	}
	out := filepath.Join(t.TempDir(), "out")
	must(t, r.Extract(context.Background(), out, ExtractOptions{}))
	fi, err := os.Stat(filepath.Join(out, "tool"))
	must(t, err)
	if got := statOf(fi).Mode & 0o7777; got != 0o755 {
		t.Errorf("mode %o, want 755: nobody gains rights by what comes out of a volume", got)
	}
}

// TestExtractOutside: no source can lead extraction out of its directory.
func TestExtractOutside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	link := func(name, target string) Entry {
		return Entry{Name: name, Attr: Attr{Type: Symlink, Mtime: fixedTime}, Target: target}
	}
	evil := map[string][]Entry{
		"name with dots":        {memDir(0, "../x")},
		"absolute name":         {memDir(0, outside+"/x")},
		"dot dot":               {memDir(0, "..")},
		"directory over a link": {link("d", outside), memDir(0, "d"), memDir(2, "x")},
		"child of a link":       {link("d", outside), memDir(1, "x")},
	}
	for name, entries := range evil {
		src := memSource{entries: append([]Entry{memDir(0, "")}, entries...)}
		out := filepath.Join(t.TempDir(), "out")
		if err := extract(context.Background(), src, out, 0, ExtractOptions{}); err == nil {
			t.Errorf("%s: extracted", name)
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Fatalf("%s: wrote %v outside", name, left)
		}
	}
	var file memSource
	file.entries = []Entry{memDir(0, ""), link("f", filepath.Join(outside, "f"))}
	file.file(0, "f", "text", 1)
	if err := extract(context.Background(), file, filepath.Join(t.TempDir(), "o"), 0, ExtractOptions{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("file over a link: %v", err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Fatalf("wrote %v outside", left)
	}
}

func TestExtractKeepsHoles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(32<<20))
	_, err = f.WriteAt([]byte("end"), 32<<20-3)
	must(t, errors.Join(err, f.Close()))
	s, b := sealBytes(t, path)
	out := filepath.Join(t.TempDir(), "out")
	must(t, openBytes(t, b, s.Key).Extract(context.Background(), out, ExtractOptions{}))
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(out, "sparse"), &st))
	if st.Size != 32<<20 || st.Blocks*512 > 4<<20 {
		t.Errorf("%d bytes in %d KiB", st.Size, st.Blocks/2)
	}
	got, err := os.ReadFile(filepath.Join(out, "sparse"))
	must(t, err)
	if !bytes.HasSuffix(got, []byte("end")) || !allZero(got[:len(got)-3]) {
		t.Error("content differs")
	}
}

func TestExtractOddTreeOfVolume(t *testing.T) {
	t.Parallel()
	dir := oddTree(t)
	s, b := sealBytes(t, dir)
	// Sealing a volume's tree anew gives the same tree under a fresh key.
	var again bytes.Buffer
	s2, err := sealer{random: zeroless{}, wrap: fixedWrap}.seal(context.Background(), &again, openBytes(t, b, s.Key), SealOptions{})
	must(t, err)
	out := filepath.Join(t.TempDir(), "out")
	must(t, openBytes(t, again.Bytes(), s2.Key).Extract(context.Background(), out, ExtractOptions{Workers: 3}))
	compareTrees(t, dir, out, true)
}

// zeroless is a poor but sufficient source of non-zero bytes.
type zeroless struct{}

func (zeroless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i%255 + 1)
	}
	return len(p), nil
}
