package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// lateTree is a tree with one file whose head is known last, and others behind it.
type lateTree struct {
	memSource
	head, rest []byte
	late       func(*Late) // changes what is sealed late
}

// newLateTree returns a tree with an image.sif of size bytes, and the same where all is known from the start.
func newLateTree(head, size int) (late lateTree, known memSource) {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size), byte(head)}).Read(content)
	known.entries = []Entry{memDir(0, "")}
	known.file(0, "image.sif", string(content), 1)
	known.file(0, "behind", "it", 1)
	return lateTree{memSource: known, head: content[:head], rest: content[head:]}, known
}

func (l lateTree) Walk(ctx context.Context, emit func(Entry) (uint32, error)) error {
	return l.memSource.Walk(ctx, func(e Entry) (uint32, error) {
		if e.Name == "image.sif" {
			e.Late = &Late{HeadSize: int64(len(l.head)), Write: l.write}
			e.Attr.Size, e.Open = -1, nil
			if l.late != nil {
				l.late(e.Late)
			}
		}
		return emit(e)
	})
}

// write writes pieces of all lengths.
func (l lateTree) write(_ context.Context, w io.Writer) ([]byte, error) {
	lengths := []int{1, 0, 4095, 4096, 4097, 100_000, 1 << 20}
	for i, rest := 0, l.rest; len(rest) > 0; i++ {
		n := min(lengths[i%len(lengths)], len(rest))
		if m, err := w.Write(rest[:n]); err != nil || m != n {
			return nil, fmt.Errorf("wrote %d of %d bytes: %w", m, n, err)
		}
		rest = rest[n:]
	}
	return l.head, nil
}

// sealLate seals into a file with the given randomness.
func sealLate(t testing.TB, random io.Reader, src Source, opt SealOptions) (Sealed, []byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sealed"))
	must(t, err)
	defer f.Close()
	s, err := sealer{random: random, wrap: fixedWrap, rewritable: f}.seal(t.Context(), f, src, opt)
	b, rerr := os.ReadFile(f.Name())
	must(t, rerr)
	return s, b, err
}

func seeded(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// TestLate: what is sealed with its head last is what is sealed from its beginning to its end, at the edges of
// blocks, chunks and the first segment.
func TestLate(t *testing.T) {
	t.Parallel()
	const segment = SegmentSize / cipherBlock * plainBlock // a little less than what fills the first one
	for _, c := range []struct{ head, size int }{
		{0, 0}, {0, 1}, {0, 4096}, {0, 5000}, {1, 1}, {1, 2}, {1, 4096}, {1, 4097}, {1, 300_000}, {4095, 4095}, {4095, 4096},
		{4095, 4097}, {4096, 4096}, {4096, 4097}, {4097, 4097}, {4097, 8191}, {4097, 8192}, {4097, 8193}, {32_864, 32_864},
		{32_864, 32_865}, {32_864, 36_864}, {32_864, 36_865}, {32_864, 2_000_000}, {600_000, 600_001}, {600_000, 3 << 20},
		{32_864, segment - 8192}, {32_864, segment + 4096},
	} {
		late, known := newLateTree(c.head, c.size)
		s, b, err := sealLate(t, seeded(1), late, SealOptions{})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		k, want := sealFixed(t, known, 2)
		if s.PlainBytes != k.PlainBytes || s.Entries != k.Entries || s.Size != int64(len(b)) {
			t.Errorf("%+v: sealed %+v, want %+v", c, s, k)
		}
		if sum, err := ReadChecksum(t.Context(), bytes.NewReader(b)); err != nil || sum != s.Checksum {
			t.Errorf("%+v: the checksum is %v instead of %v, %v", c, s.Checksum, sum, err)
		}
		got, err := openAndDump(b, s.Key)
		wanted, werr := openAndDump(want, k.Key)
		if err != nil || werr != nil || got != wanted {
			t.Errorf("%+v: holds\n%s, want\n%s%v, %v", c, got, wanted, err, werr)
		}
	}
}

// TestLateNonces: each block is encrypted once: there are as many nonces as were drawn, and none is there twice.
func TestLateNonces(t *testing.T) {
	t.Parallel()
	for _, size := range []int{33_000, 40_000, 5_000_000} {
		late, _ := newLateTree(32_864, size)
		random := &countingReader{r: seeded(3)}
		s, b, err := sealLate(t, random, late, SealOptions{})
		must(t, err)
		r := openBytes(t, b, s.Key)
		node, ok := r.Lookup(0, "image.sif")
		if !ok {
			t.Fatal("no image.sif")
		}
		seen, at := map[string]bool{}, r.t.nodes[node].at+headerSize
		for range blocksOf(int64(size)) {
			seen[string(b[at:at+nonceSize])] = true
			at += cipherBlock
		}
		const behind = 1 // the other file's block
		drawn := len(s.ID) + KeySize + dirIVSize + 12 + (int(blocksOf(int64(size)))+behind)*nonceSize
		if len(seen) != int(blocksOf(int64(size))) || random.n != drawn {
			t.Errorf("%d bytes: %d nonces; %d bytes were drawn instead of %d", size, len(seen), random.n, drawn)
		}
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// TestLateStockTools: tar unpacks it, gocryptfs mounts it.
func TestLateStockTools(t *testing.T) {
	t.Parallel()
	late, known := newLateTree(32_864, 1_000_000)
	s, b, err := sealLate(t, seeded(4), late, SealOptions{})
	must(t, err)
	unpacked := unpack(t, b)
	for name, bin := range gocryptfsBinaries(t) {
		mnt := mountGocryptfs(t, bin, filepath.Join(unpacked, treeName), s.Key, "-ro")
		if got, err := os.ReadFile(filepath.Join(mnt, "image.sif")); err != nil || string(got) != known.content["image.sif"] {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestSizedHeader: the header is equally long whatever the size, and readers of tar files find that in it.
func TestSizedHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"volume/short", "volume/" + strings.Repeat("l", 200)} {
		h := tar.Header{Name: name, Mode: 0o644, ModTime: fixedTime}
		want, err := sizedHeader(h, 0)
		must(t, err)
		for _, size := range []int64{0, 1, 512, 1<<33 - 1, 1 << 33, 1<<33 + 1, 9_000_000_000, 1 << 41} {
			b, err := sizedHeader(h, size)
			must(t, err)
			if len(b) != len(want) {
				t.Errorf("%d bytes: a header of %d bytes instead of %d", size, len(b), len(want))
			}
			readSized(t, b, name, size)
		}
		largest, err := sizedHeader(h, cipherSize(maxFileSize))
		must(t, err)
		if got, err := tar.NewReader(bytes.NewReader(largest)).Next(); err != nil || got.Size != cipherSize(maxFileSize) {
			t.Errorf("the largest: %+v, %v", got, err)
		}
	}
}

// readSized reads a tar file that has a member with the header, full of holes, and another behind it.
func readSized(t *testing.T, header []byte, name string, size int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse.tar"))
	must(t, err)
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write(header)
	must(t, err)
	_, err = f.Seek(int64(len(header))+padded(size), io.SeekStart)
	must(t, err)
	w := tar.NewWriter(f)
	must(t, w.WriteHeader(&tar.Header{Name: "behind", Typeflag: tar.TypeReg}))
	must(t, w.Close())
	out, err := exec.Command("tar", "-tvf", f.Name()).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 2 || !strings.Contains(lines[0], fmt.Sprintf(" %d ", size)) ||
		!strings.HasSuffix(lines[0], name) || !strings.HasSuffix(lines[1], "behind") {
		t.Errorf("%d bytes: tar: %v\n%s", size, err, out)
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	r := tar.NewReader(f)
	first, err := r.Next()
	if err != nil || first.Size != size || first.Name != name {
		t.Errorf("%d bytes: %+v, %v", size, first, err)
	}
	if second, err := r.Next(); err != nil || second.Name != "behind" {
		t.Errorf("%d bytes: %+v, %v", size, second, err)
	}
}

// TestLateRefusals: what cannot be sealed with its head last is an error, and leaves nothing.
func TestLateRefusals(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		late func(*Late)
		want error
		text string
	}{
		"it fails": {late: func(l *Late) {
			l.Write = func(_ context.Context, w io.Writer) ([]byte, error) {
				_, _ = w.Write(make([]byte, 1<<20))
				return nil, boom
			}
		}, want: boom},
		"a short head":        {late: func(l *Late) { l.HeadSize++ }, text: `of "image.sif" has 5000 bytes instead of 5001`},
		"a long head":         {late: func(l *Late) { l.HeadSize-- }, text: `of "image.sif" has 5000 bytes instead of 4999`},
		"no size":             {late: func(l *Late) { l.HeadSize = -1 }, want: ErrPath},
		"a head too large":    {late: func(l *Late) { l.HeadSize = SegmentSize - 100_000 }, want: ErrPath},
		"one beyond numbers":  {late: func(l *Late) { l.HeadSize = 1<<63 - 1 }, want: ErrPath},
		"an error is ignored": {late: ignoring, want: context.Canceled},
	} {
		late, _ := newLateTree(5000, 3<<20)
		late.late = c.late
		ctx, cancel := context.WithCancelCause(t.Context())
		if name == "an error is ignored" {
			cancel(nil)
		}
		out := filepath.Join(t.TempDir(), "out")
		_, err := SealFile(ctx, out, late, SealOptions{Recipients: toSomebody(t)})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(out + "*"); len(left) > 0 {
			t.Errorf("%s: left %q", name, left)
		}
		cancel(nil)
	}
}

func toSomebody(t *testing.T) []age.Recipient { return []age.Recipient{newIdentity(t).Recipient()} }

// ignoring goes on whatever happens.
func ignoring(l *Late) {
	head := make([]byte, l.HeadSize)
	l.Write = func(_ context.Context, w io.Writer) ([]byte, error) {
		for range 100 {
			_, _ = w.Write(make([]byte, 1<<20))
		}
		return head, nil
	}
}

func TestLateIntoStream(t *testing.T) {
	t.Parallel()
	late, _ := newLateTree(5000, 1<<20)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	if _, err := Seal(t.Context(), f, late, SealOptions{Recipients: toSomebody(t)}); !errors.Is(err, ErrNotSeekable) {
		t.Errorf("into a stream: %v", err)
	}
}

// TestLateTwice: there is one such file in a volume.
func TestLateTwice(t *testing.T) {
	t.Parallel()
	late, _ := newLateTree(5000, 10_000)
	second := late.entries[1]
	twice := sourceFunc(func(ctx context.Context, emit func(Entry) (uint32, error)) error {
		if err := late.Walk(ctx, emit); err != nil {
			return err
		}
		nothing := func(context.Context, io.Writer) ([]byte, error) { return nil, nil }
		second.Name, second.Late = "second", &Late{Write: nothing}
		_, err := emit(second)
		return err
	})
	if _, _, err := sealLate(t, seeded(5), twice, SealOptions{}); !errors.Is(err, ErrPath) {
		t.Errorf("a second one: %v", err)
	}
}

type sourceFunc func(context.Context, func(Entry) (uint32, error)) error

func (f sourceFunc) Walk(ctx context.Context, emit func(Entry) (uint32, error)) error {
	return f(ctx, emit)
}

// TestLateAltered: what somebody else wrote into the file meanwhile does not get a checksum.
func TestLateAltered(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int64{"before the head": 700, "in its place": 8000, "behind it": 500_000} {
		late, _ := newLateTree(5000, 5<<20)
		var file *os.File
		late.late = func(l *Late) {
			write := l.Write
			l.Write = func(ctx context.Context, w io.Writer) ([]byte, error) {
				head, err := write(ctx, w)
				if _, werr := file.WriteAt([]byte("altered"), at); werr != nil {
					return nil, werr
				}
				return head, err
			}
		}
		opt := SealOptions{Begun: func(_ ID, r io.ReaderAt) { file, _ = r.(*os.File) }}
		if _, _, err := sealLate(t, seeded(6), late, opt); !errors.Is(err, ErrChecksum) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLateWritten: what was told of as written is there to stay.
func TestLateWritten(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 3 << 20} {
		late, _ := newLateTree(32_864, SegmentSize+5<<20)
		src := sourceFunc(func(ctx context.Context, emit func(Entry) (uint32, error)) error {
			return late.Walk(ctx, func(e Entry) (uint32, error) {
				if e.Name == "image.sif" && before > 0 {
					early := memSource{}
					early.file(0, "before", strings.Repeat("b", before), 1)
					e := early.entries[0]
					content := strings.NewReader(early.content["before"])
					e.Open = func() (io.ReadCloser, error) { return io.NopCloser(content), nil }
					if _, err := emit(e); err != nil {
						return 0, err
					}
				}
				return emit(e)
			})
		})
		var made io.ReaderAt
		var held bool
		told := make(map[int64][]byte)
		var had int64
		opt := SealOptions{Begun: func(_ ID, r io.ReaderAt) { made = r }}
		opt.Written = func(final, size int64) {
			held = held || final == SegmentSize
			if from := max(final, had); from < size {
				b := make([]byte, size-from)
				must(t, readFullAt(made, b, from))
				told[from] = b
			}
			had = max(had, size)
		}
		_, b, err := sealLate(t, seeded(7), src, opt)
		must(t, err)
		for at, was := range told {
			if !bytes.Equal(b[at:at+int64(len(was))], was) {
				t.Errorf("%d bytes before: what was told of at %d has changed", before, at)
			}
		}
		if !held || had != int64(len(b)) || len(told) < 2 {
			t.Errorf("%d bytes before: held %t, told of %d bytes in %d pieces", before, held, had, len(told))
		}
	}
}
