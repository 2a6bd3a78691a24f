package squashfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// begin returns a Writer whose image goes nowhere.
func begin(t *testing.T, o Options) *Writer {
	t.Helper()
	w, err := NewWriter(context.Background(), io.Discard, o)
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// random returns n bytes that do not shrink.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{seed})
	c.Read(b)
	return b
}

// TestDuplicates writes files that are equal, or only begin or end alike.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	regular := func(b []byte) *file { return &file{Node: Node{Mode: TypeRegular | 0o644}, data: b} }
	big := random(5*blockSize+100, 1)
	end := append(bytes.Clone(big[:len(big)-1]), big[len(big)-1]+1)
	middle := bytes.Clone(big)
	middle[2*blockSize] ^= 1
	root := &file{Node: Node{Mode: TypeDirectory | 0o755}, in: map[string]*file{}}
	size := func() int { return len(write(t, Options{}, root)) }
	for i, b := range [][]byte{big, end, middle, big[:2*blockSize], big[:50], append(make([]byte, blockSize), big...)} {
		root.in[fmt.Sprint(i)] = regular(b)
	}
	once := size()
	for name, f := range root.in {
		root.in["again "+name] = regular(bytes.Clone(f.data))
	}
	if twice := size(); twice > once+4096 {
		t.Errorf("an image of %d bytes has %d with each file twice", once, twice)
	}
	got, err := parse(write(t, Options{}, root))
	must(t, err)
	must(t, alike(root, got, "", map[*file]*file{}))
}

// TestHeldBack has files that are as large as what is kept back until it is known whether the image has them, and
// larger: those are stored again, and nothing else happens.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	const limit = 4 * blockSize
	size := func(content, copies int) int64 {
		w := begin(t, Options{})
		w.store.limit = limit
		b := random(content, 1)
		for range copies {
			_, err := w.Add(bytes.NewReader(b), int64(content))
			must(t, err)
		}
		_, size, err := w.Finish(&Node{Mode: TypeDirectory})
		must(t, err)
		return size
	}
	if once, twice := size(limit, 1), size(limit, 2); once != twice {
		t.Errorf("an image of %d bytes has %d with a duplicate", once, twice)
	}
	if once, twice := size(limit+1, 1), size(limit+1, 2); twice != once+limit {
		t.Errorf("an image of %d bytes has %d with a large duplicate", once, twice)
	}
}

// endless is a byte that never ends.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestRefusedNodes(t *testing.T) {
	t.Parallel()
	dir := func(name string, n *Node) *Node {
		return &Node{Mode: TypeDirectory | 0o755, Entries: map[string]*Node{name: n}}
	}
	regular := &Node{Mode: TypeRegular}
	with := func(name string, value []byte) *Node {
		return dir("f", &Node{Mode: TypeRegular, Xattrs: map[string][]byte{name: value}})
	}
	loop := dir("sub", nil)
	loop.Entries["sub"] = loop
	twice := dir("a", &Node{Mode: TypeDirectory})
	twice.Entries["b"] = twice.Entries["a"]
	for want, root := range map[string]*Node{
		"/: a root that is no directory":             regular,
		"/a/pipe: a file of type 010000 cannot":      dir("a", dir("pipe", &Node{Mode: 0o010644})),
		"/dev: a file of type 020000 cannot":         dir("dev", &Node{Mode: 0o020644}),
		"/sock: a file of type 0140000 cannot":       dir("sock", &Node{Mode: 0o140644}),
		"/none: a file of type 0 cannot":             dir("none", &Node{Mode: 0o644}),
		"the mode 01100644 cannot":                   dir("f", &Node{Mode: 0o1100644}),
		"/: the name \"\" cannot":                    dir("", regular),
		"the name \".\" cannot":                      dir(".", regular),
		"the name \"..\" cannot":                     dir("..", regular),
		"the name \"a/b\" cannot":                    dir("a/b", regular),
		"the name \"a\\x00\" cannot":                 dir("a\x00", regular),
		"a symbolic link to 0 bytes":                 dir("l", &Node{Mode: TypeSymlink}),
		"a symbolic link to 4096 bytes":              dir("l", &Node{Mode: TypeSymlink, Target: strings.Repeat("x", 4096)}),
		"a symbolic link to 3 bytes, or with a NUL,": dir("l", &Node{Mode: TypeSymlink, Target: "a\x00b"}),
		"/x: an entry without node":                  dir("x", nil),
		"/f: a file of type 0100000 with what":       dir("f", &Node{Mode: TypeRegular, Target: "t"}),
		"/d: a file of type 040000 with what":        dir("d", &Node{Mode: TypeDirectory, Content: &Content{}}),
		"/g: a file of type 0100000 with what":       dir("g", &Node{Mode: TypeRegular, Entries: map[string]*Node{}}),
		"/sub: a directory that is in two places":    loop,
		"/b: a directory that is in two places":      twice,
		"\"system.posix_acl_access\" cannot":         with("system.posix_acl_access", nil),
		"the extended attribute \"user.\" cannot":    with("user.", nil),
		"65537 bytes of the extended attribute":      with("user.x", make([]byte, 65537)),
		"the extended attribute \"user.yyy":          with("user."+strings.Repeat("y", 251), nil),
		"the name \"nnn":                             dir(strings.Repeat("n", 256), regular),
	} {
		_, _, err := begin(t, Options{}).Finish(root)
		if !errors.Is(err, ErrNode) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestLimits writes the most of everything, and one more.
func TestLimits(t *testing.T) {
	t.Parallel()
	xattrs := map[string][]byte{"user." + strings.Repeat("y", 250): random(65536, 1)}
	root := &file{Node: Node{Mode: TypeDirectory | 0o755}, in: map[string]*file{
		"x": {Node: Node{Mode: TypeRegular, Xattrs: xattrs}},
		"l": {Node: Node{Mode: TypeSymlink, Target: strings.Repeat("t", 4095)}},
	}}
	for i := range 300 {
		root.in[strings.Repeat("n", 250)+fmt.Sprintf("%05d", i)] = root.in["x"]
	}
	got, err := parse(write(t, Options{}, root))
	must(t, err)
	must(t, alike(root, got, "", map[*file]*file{}))
	entries := map[string]*Node{}
	for i := range uint32(65_534) {
		entries[fmt.Sprint(i)] = &Node{Mode: TypeRegular, UID: i + 1}
	}
	_, _, err = begin(t, Options{}).Finish(&Node{Mode: TypeDirectory, Entries: entries})
	must(t, err)
	entries["more"] = &Node{Mode: TypeRegular, UID: 1 << 31}
	_, _, err = begin(t, Options{}).Finish(&Node{Mode: TypeDirectory, Entries: entries})
	if !errors.Is(err, ErrNode) || !strings.Contains(err.Error(), "more than 65535 users and groups") {
		t.Errorf("65536 owners: %v", err)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	root := &file{Node: Node{Mode: TypeDirectory | 0o755}, in: map[string]*file{}}
	for i, s := range []int64{-1, 0, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 40, -1 << 40} {
		root.in[fmt.Sprint(i)] = &file{Node: Node{Mode: TypeRegular, Mtime: time.Unix(s, 999)}}
	}
	var w *Writer
	var m memory
	_, err := Create(context.Background(), &m, Options{MTime: time.Unix(1<<33, 0)}, func(x *Writer) (*Node, error) {
		w = x
		return root.build(x, map[*file]*Node{})
	})
	must(t, err)
	if n := w.ClampedTimes(); n != 4 {
		t.Errorf("%d times are said to be others, want 4", n)
	}
	got, err := parse(m.b)
	must(t, err)
	must(t, alike(root, got, "", map[*file]*file{}))
}

func TestContentThatIsNotAsSaid(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for want, add := range map[string]func(w *Writer) (*Content, error){
		"unexpected EOF":         func(w *Writer) (*Content, error) { return w.Add(strings.NewReader("abc"), 4) },
		"file: unexpected EOF":   func(w *Writer) (*Content, error) { return w.Add(bytes.NewReader(zeros), 2*blockSize) },
		"longer than its size":   func(w *Writer) (*Content, error) { return w.Add(strings.NewReader("abc"), 2) },
		"is longer than":         func(w *Writer) (*Content, error) { return w.Add(strings.NewReader("abc"), 0) },
		"a file of -1 bytes":     func(w *Writer) (*Content, error) { return w.Add(strings.NewReader("abc"), -1) },
		"reading a file: broken": func(w *Writer) (*Content, error) { return w.Add(iotest.ErrReader(broken), 4) },
		"file: broken": func(w *Writer) (*Content, error) {
			return w.Add(io.MultiReader(strings.NewReader("abcd"), iotest.ErrReader(broken)), 4)
		},
	} {
		w := begin(t, Options{})
		_, err := add(w)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, again := w.Add(strings.NewReader("abc"), 3); again != err {
			t.Errorf("%s: goes on: %v", want, again)
		}
		if _, _, again := w.Finish(&Node{Mode: TypeDirectory}); again != err {
			t.Errorf("%s: is finished: %v", want, again)
		}
	}
}

// failing takes some bytes and fails then.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestOutputFails fails at every part of an image, and leaves no goroutine.
func TestOutputFails(t *testing.T) {
	image := write(t, Options{}, smallTree())
	before := runtime.NumGoroutine()
	for _, o := range []Options{{Workers: 1}, {Workers: 4}} {
		for left := 0; left < len(image)-SuperblockSize; left += 1999 {
			w, err := NewWriter(context.Background(), &failing{left}, o)
			must(t, err)
			root, err := smallTree().build(w, map[*file]*Node{})
			if err == nil {
				_, _, err = w.Finish(root)
			}
			if !errors.Is(err, errFull) {
				t.Fatalf("after %d bytes: %v", left, err)
			}
			w.Close()
		}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	w, err := NewWriter(ctx, io.Discard, Options{})
	must(t, err)
	defer w.Close()
	cancel()
	for err == nil {
		_, err = w.Add(io.LimitReader(endless(0), 1<<40), 1<<40)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled image: %v", err)
	}
}

func TestEnded(t *testing.T) {
	t.Parallel()
	w := begin(t, Options{})
	_, _, err := w.Finish(&Node{Mode: TypeDirectory})
	must(t, err)
	if _, err := w.Add(strings.NewReader("a"), 1); !errors.Is(err, errEnded) {
		t.Errorf("Add after Finish: %v", err)
	}
	if _, _, err := w.Finish(&Node{Mode: TypeDirectory}); !errors.Is(err, errEnded) {
		t.Errorf("Finish after Finish: %v", err)
	}
	for _, o := range []Options{{Level: 10}, {Level: -1}, {Compression: Zstd, Level: 10}, {Compression: 7}} {
		if _, err := NewWriter(context.Background(), io.Discard, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
