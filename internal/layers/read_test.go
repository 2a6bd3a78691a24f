package layers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// TestFormats: layers are read however they are compressed, by media type and by content.
func TestFormats(t *testing.T) {
	t.Parallel()
	plain := pack(t, file("a", strings.Repeat("content ", 9999)))
	padded := append(bytes.Clone(plain), make([]byte, 1<<20)...)
	half := len(plain) / 2 / 512 * 512
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "head"...)
	v7 := bytes.Clone(plain)
	copy(v7[257:265], make([]byte, 8))
	retype(v7, '0')
	named := pack(t, file("BZhello", "x"))
	for name, c := range map[string]struct {
		blob, plain []byte
		mediaType   string
	}{
		"plain":                {plain, plain, ociTar},
		"plain, by content":    {plain, plain, ""},
		"plain, called gzip":   {plain, plain, ociGzip},
		"v7":                   {v7, v7, ociTar},
		"v7, by content":       {v7, v7, ""},
		"a name like bzip2":    {named, named, ""},
		"gzip":                 {gzipped(plain), plain, ociGzip},
		"gzip, by content":     {gzipped(plain), plain, ""},
		"gzip, called zstd":    {gzipped(plain), plain, ociZstd},
		"gzip, called plain":   {gzipped(plain), plain, ociTar},
		"gzip in members":      {append(gzipped(plain[:half]), gzipped(plain[half:])...), plain, ociGzip},
		"eStargz":              {slices.Concat(gzipped(plain[:half]), gzipped(plain[half:]), gzipped(nil)), plain, ociGzip},
		"zstd":                 {zstded(plain), plain, ociZstd},
		"zstd, by content":     {zstded(plain), plain, ""},
		"zstd in frames":       {append(zstded(plain[:half]), zstded(plain[half:])...), plain, ociZstd},
		"zstd:chunked":         {append(zstded(plain), skip...), plain, ociZstd},
		"zstd, skipped first":  {append(bytes.Clone(skip), zstded(plain)...), plain, ""},
		"no end":               {gzipped(plain[:len(plain)-1024]), plain[:len(plain)-1024], ociGzip},
		"zeros behind":         {append(gzipped(plain), make([]byte, 700)...), plain, ociGzip},
		"a second tar behind":  {append(bytes.Clone(plain), named...), append(bytes.Clone(plain), named...), ociTar},
		"zeros behind the tar": {gzipped(padded), padded, ociGzip},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, sizeKnown := range []bool{true, false} {
				l := stored(c.blob, c.plain, c.mediaType)
				if !sizeKnown {
					l.Size, l.Digest = -1, ""
				}
				if tree := merged(t, l); !strings.Contains(listing(t, tree), "644") || tree.Files != 1 {
					t.Errorf("%s", listing(t, tree))
				}
			}
		})
	}
	end := make([]byte, 1024)
	empty := merged(t, stored(nil, nil, ociTar), stored(gzipped(nil), nil, ociGzip), stored(end, end, ""))
	if len(empty.Root.Entries) != 0 {
		t.Error("empty layers hold something")
	}
}

var errLine = errors.New("the line broke")

// TestDigests: every byte of a blob and of what it holds counts, and what is wrong is said of the outermost.
func TestDigests(t *testing.T) {
	t.Parallel()
	plain := pack(t, file("a", strings.Repeat("content ", 9999)))
	blob := gzipped(plain)
	flipped := bytes.Clone(blob)
	flipped[len(flipped)/2] ^= 1
	late := append(bytes.Clone(blob), 0, 0)
	hostile := pack(t, file("../x", "x"))
	for name, c := range map[string]struct {
		change func(*Layer)
		kind   error
		says   string
	}{
		"blob's digest": {func(l *Layer) { l.Digest = digestOf(nil) },
			ErrDigest, "it is not what its digest says"},
		"diff id": {func(l *Layer) { l.DiffID = digestOf(nil) },
			ErrDigest, "what it holds is not what the image says (diff id e3b0c44298fc)"},
		"plain, diff id": {func(l *Layer) { *l = stored(plain, nil, ociTar) },
			ErrDigest, "what it holds is not"},
		"a bit": {func(l *Layer) { l.Open = opens(flipped) },
			ErrDigest, "it is not what its digest says"},
		"a bit, no digest": {func(l *Layer) { l.Open, l.Digest = opens(flipped), "" },
			ErrFormat, "it is damaged"},
		"bytes behind": {func(l *Layer) { l.Open = opens(late) }, ErrDigest, "it is longer than the"},
		"bytes behind, no size": {func(l *Layer) { l.Open, l.Size = opens(late), -1 },
			ErrDigest, "it is not what its digest says"},
		"garbage behind": {func(l *Layer) { *l = stored(append(bytes.Clone(blob), "garbage"...), plain, ociGzip) },
			ErrFormat, "something follows the end"},
		"cut": {func(l *Layer) { l.Open = opens(blob[:len(blob)-9]) },
			ErrDigest, "it is cut off: "},
		"cut, no size": {func(l *Layer) { l.Open, l.Size = opens(blob[:len(blob)-9]), -1 },
			ErrDigest, "it is not what its digest says"},
		"cut, and called so": {func(l *Layer) { *l = stored(blob[:len(blob)-9], plain, ociGzip) },
			ErrFormat, "it is cut off"},
		"a tar cut in a file": {func(l *Layer) { *l = stored(gzipped(plain[:9999]), plain[:9999], ociGzip) },
			ErrFormat, "it is cut off"},
		"nothing there": {func(l *Layer) { l.Open = opens(nil) }, ErrDigest, "it is cut off: 0 of"},
		"no tar": {func(l *Layer) { *l = stored([]byte(strings.Repeat("<html>", 999)), nil, ociGzip) },
			ErrFormat, "it is damaged, or no tar archive"},
		"hostile, exchanged": {func(l *Layer) { l.Open, l.Size = opens(hostile), int64(len(hostile)) },
			ErrDigest, "it is not what its digest says"},
		"unknown digest": {func(l *Layer) { l.Digest = "md5:00" },
			ErrFormat, `"md5:00" is no digest that can be checked`},
		"digest in capitals": {func(l *Layer) { l.Digest = strings.ToUpper(l.Digest) },
			ErrFormat, "is no digest"},
		"digest that steers":     {func(l *Layer) { l.Digest = "sha256:\x1b[2J" }, ErrFormat, `layer 1 of 1 (no digest): "sha256:\x1b[2J" is no`},
		"short digest":           {func(l *Layer) { l.Digest = "sha256:00" }, ErrFormat, "is no digest"},
		"no diff id":             {func(l *Layer) { l.DiffID = "" }, ErrFormat, `"" is no digest`},
		"the line broke":         {func(l *Layer) { l.Open = breaks(blob, len(blob)/2) }, errLine, "the line broke"},
		"the line broke at once": {func(l *Layer) { l.Open = breaks(blob, 0) }, errLine, "the line broke"},
		"the line broke late":    {func(l *Layer) { l.Open = breaks(blob, len(blob)) }, errLine, "the line broke"},
		"it does not open": {func(l *Layer) {
			l.Open = func(context.Context) (io.ReadCloser, error) { return nil, errLine }
		}, errLine, "the line broke"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := stored(blob, plain, ociGzip)
			c.change(&l)
			_, err := Merge(context.Background(), []Layer{l}, Limits{})
			if !errors.Is(err, c.kind) || !strings.HasPrefix(err.Error(), "layer 1 of 1 (") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %s", err, c.says)
			}
			if (c.kind != errLine && fault.Hint(err) == "") || strings.Contains(err.Error(), "archive/tar") ||
				(c.kind == ErrDigest && fault.ClassOf(err) != fault.Integrity) {
				t.Errorf("class %v, hint %q", fault.ClassOf(err), fault.Hint(err))
			}
		})
	}
}

func opens(b []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// breaks returns what opens a blob whose reading fails after n bytes.
func breaks(b []byte, n int) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b[:n]), failing{})), nil
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errLine }

// TestChanged: the second reading finds that a layer is not what the first one read, whatever is other.
func TestChanged(t *testing.T) {
	t.Parallel()
	plain := pack(t, file("a", "first content"), file("b", strings.Repeat("b", 5000)))
	blob := gzipped(plain)
	for name, c := range map[string]struct {
		then func(context.Context) (io.ReadCloser, error)
		kind error
	}{
		"content":        {opens(gzipped(pack(t, file("a", "other content"), file("b", strings.Repeat("b", 5000))))), ErrChanged},
		"a size":         {opens(gzipped(pack(t, file("a", "shorter"), file("b", strings.Repeat("b", 5000))))), ErrChanged},
		"fewer":          {opens(gzipped(pack(t, file("a", "first content")))), ErrChanged},
		"more":           {opens(gzipped(append(bytes.Clone(plain[:len(plain)-1024]), pack(t, file("c", ""))...))), ErrChanged},
		"cut":            {opens(blob[:len(blob)-20]), ErrChanged},
		"longer":         {opens(append(bytes.Clone(blob), 0)), ErrChanged},
		"nothing":        {opens(nil), ErrChanged},
		"no tar":         {opens([]byte(strings.Repeat("x", len(blob)))), ErrChanged},
		"packed anew":    {opens(plain), ErrChanged},
		"the line broke": {breaks(blob, len(blob)/2), errLine},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := stored(blob, plain, ociGzip)
			first := l.Open
			readings := 0
			l.Open = func(ctx context.Context) (io.ReadCloser, error) {
				if readings++; readings == 1 {
					return first(ctx)
				}
				return c.then(ctx)
			}
			err := merged(t, l).Contents(context.Background(), drain)
			if !errors.Is(err, c.kind) || !strings.HasPrefix(err.Error(), "layer 1 of 1 (") {
				t.Errorf("%v; want %v", err, c.kind)
			}
		})
	}
}

func drain(_ *squashfs.Node, r io.Reader, _ int64) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// TestContents: an error of who takes the contents is returned as it is; what is not read is passed over; and a layer of
// which nothing is left is not read again.
func TestContents(t *testing.T) {
	t.Parallel()
	opened := make([]int, 2)
	layers := []Layer{layer(t, file("a", "old")), layer(t, file("a", "new"), file("b", "b"), file("empty", ""))}
	for i, open := range []func(context.Context) (io.ReadCloser, error){layers[0].Open, layers[1].Open} {
		layers[i].Open = func(ctx context.Context) (io.ReadCloser, error) { opened[i]++; return open(ctx) }
	}
	tree := merged(t, layers...)
	calls := 0
	must(t, tree.Contents(context.Background(), func(*squashfs.Node, io.Reader, int64) error { calls++; return nil }))
	if calls != 2 || opened[0] != 1 || opened[1] != 2 {
		t.Errorf("%d contents; layers opened %d times; want 2 contents, and once and twice", calls, opened)
	}
	err := tree.Contents(context.Background(), func(*squashfs.Node, io.Reader, int64) error { return errLine })
	if err != errLine {
		t.Errorf("%v; want %v as it is", err, errLine)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tree.Contents(ctx, drain); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want that it was cancelled", err)
	}
	if _, err := Merge(ctx, layers, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want that it was cancelled", err)
	}
}
