package volume

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestTimesOfAllCenturies: times that no int64 of nanoseconds holds come out as they went in, or
// are told of where the file system cannot hold them; and they are in the index in any case.
func TestTimesOfAllCenturies(t *testing.T) {
	t.Parallel()
	times := map[string]time.Time{
		"negative": time.Unix(-1, 5e8), "2263": time.Unix(9223372037, 1), "2400": time.Unix(13569465600, 999999999),
		"1676": time.Unix(-9277372037, 7), "10000": time.Unix(253402300800, 0), "year -1": time.Unix(-62198755200, 0),
		"last": time.Unix(math.MaxInt64, 0), "first": time.Unix(math.MinInt64, 0),
	}
	src := memSource{entries: []Entry{memDir(0, "")}}
	for name, mtime := range times {
		src.file(0, name, "", 1)
		src.entries[len(src.entries)-1].Attr.Mtime = mtime
		src.entries = append(src.entries,
			Entry{Name: name + " link", Attr: Attr{Type: Symlink, Mtime: mtime}, Target: "x"},
			Entry{Name: name + " dir", Attr: Attr{Type: Dir, Mode: 0o700, Mtime: mtime}})
	}
	s, b := sealFixed(t, src, 1)
	r, err := Open(bytes.NewReader(b), int64(len(b)), s.Key)
	must(t, err)
	out := filepath.Join(t.TempDir(), "out")
	var told told
	must(t, r.Extract(t.Context(), out, told.options()))
	for name, want := range times {
		for _, name := range []string{name, name + " link", name + " dir"} {
			node, _ := r.Lookup(0, name)
			if got := r.Attr(node).Mtime; !got.Equal(want) || got.Unix() != want.Unix() {
				t.Errorf("%s: %v in the index", name, got.Unix())
			}
			fi, err := os.Lstat(filepath.Join(out, name))
			must(t, err)
			st := statOf(fi).Mtim
			kept := st.Sec == want.Unix() && st.Nsec == int64(want.Nanosecond())
			if kept == slices.Contains(told.altered, name) {
				t.Errorf("%s: %d came out as %d; told of: %v", name, want.Unix(), st.Sec, !kept)
			}
		}
	}
	// Whatever the file system, it knows these.
	if slices.Contains(told.altered, "negative") || len(told.missing) > 0 {
		t.Errorf("told of %v, missing %v", told.altered, told.missing)
	}
}

// told is what Missing and Altered were told.
type told struct {
	mu               sync.Mutex
	missing, altered []string
}

func (d *told) options() ExtractOptions {
	add := func(to *[]string) func(string, error) {
		return func(path string, _ error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			*to = append(*to, path)
		}
	}
	return ExtractOptions{Missing: add(&d.missing), Altered: add(&d.altered)}
}

// TestFileSystemThatCannotHoldAll: what cannot be written is named, with all that lies in it, and
// the rest comes out. Two entries of one name are what a file system without case sees.
func TestFileSystemThatCannotHoldAll(t *testing.T) {
	t.Parallel()
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "a", "first", 1)                      // 1
	src.entries = append(src.entries, memDir(0, "a")) // 2, not made
	src.file(2, "inside", "x", 2)                     // 3
	src.entries = append(src.entries, Entry{Parent: 2, Name: "sub", Attr: Attr{Type: Dir, Mode: 0o700, Mtime: fixedTime}},
		Entry{Parent: 0, Name: "hard", IsLink: true, Link: 3},
		Entry{Parent: 4, Name: "link", Attr: Attr{Type: Symlink, Mtime: fixedTime}, Target: "x"})
	src.file(0, "z", "last", 1)
	out := filepath.Join(t.TempDir(), "out")
	if err := extract(t.Context(), src, out, 0, ExtractOptions{}); err == nil {
		t.Fatal("extracted, and nobody was told")
	}
	var told told
	must(t, extract(t.Context(), src, out, 0, told.options()))
	if want := []string{"a", "a/inside", "a/sub", "hard", "a/sub/link"}; !slices.Equal(told.missing, want) {
		t.Errorf("missing %q, want %q", told.missing, want)
	}
	for name, want := range map[string]string{"a": "first", "z": "last"} {
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// TestBitsThatAreDropped: that setuid and setgid bits do not come out is said.
func TestBitsThatAreDropped(t *testing.T) {
	t.Parallel()
	src := memSource{entries: []Entry{memDir(0, "")}}
	src.file(0, "suid", "", 1)
	src.entries[1].Attr.Mode = 0o4755
	src.file(0, "sticky", "", 1)
	src.entries[2].Attr.Mode = 0o1755
	var told told
	must(t, extract(t.Context(), src, filepath.Join(t.TempDir(), "out"), 0, told.options()))
	if !slices.Equal(told.altered, []string{"suid"}) {
		t.Errorf("told of %q", told.altered)
	}
}

// TestCopiesForHardLinks: where there are no hard links, a copy takes the place of one.
func TestCopiesForHardLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, os.WriteFile(filepath.Join(dir, "first"), []byte("text"), 0o640))
	must(t, os.Chtimes(filepath.Join(dir, "first"), fixedTime, fixedTime))
	var told told
	x := &extraction{root: root, opt: told.options(), ctx: context.Background(), copies: []copiedLink{{"first", "second"}, {"gone", "x"}}}
	must(t, x.copyLinks())
	fi, err := os.Stat(filepath.Join(dir, "second"))
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(dir, "second")); err != nil || string(b) != "text" || !fi.ModTime().Equal(fixedTime) ||
		fi.Mode() != 0o640 || !slices.Equal(told.altered, []string{"second"}) {
		t.Errorf("%q, %v, %v; told of %q", b, fi.ModTime(), err, told.altered)
	}
}
