package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// converted is an input that is made while it is sealed, as an image is of its layers: how it begins is known last.
// Only what it is made from has a digest.
type converted struct {
	name    string
	from    string // what its fingerprint is made from
	content []byte
	head    int
	walks   int
	last    func() // before the head is known
}

func newConverted(size int) *converted {
	c := &converted{name: "renamed", from: "sha256:1", content: make([]byte, size), head: 32_864, last: func() {}}
	_, _ = rand.NewChaCha8([32]byte{1}).Read(c.content)
	return c
}

func (c *converted) String() string { return "image example.org/x:1" }

// Scan knows the size no better than what it is made from tells.
func (c *converted) Scan(context.Context) (u volume.Usage, fingerprint volume.Digest, err error) {
	u.Add(volume.File, int64(len(c.content)/2), true)
	return u, sha256.Sum256([]byte(c.from)), nil
}

func (c *converted) Walk(_ context.Context, emit func(volume.Entry) (uint32, error)) error {
	c.walks++
	_, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: time.Unix(1, 0)}})
	if err != nil {
		return err
	}
	_, err = emit(volume.Entry{
		Name: c.name, Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: time.Unix(1, 0), Nlink: 1},
		Late: &volume.Late{HeadSize: int64(c.head), Write: func(ctx context.Context, w io.Writer) ([]byte, error) {
			for rest := range bytes.Lines(c.content[c.head:]) {
				if _, err := w.Write(rest); err != nil {
					return nil, err
				}
			}
			c.last()
			return c.content[:c.head], ctx.Err()
		}},
	})
	return err
}

// read returns the file in a published volume, which is checked against its checksum.
func (s *setting) read(t *testing.T, p Published) []byte {
	t.Helper()
	f, err := os.Open(p.Info.PathAtRest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key, err := volume.UnwrapKey(f, p.Info.Size, s.owner)
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.Open(f, p.Info.Size, key)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := volume.ParseDigest(p.Info.Checksum)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(t.Context(), volume.VerifyOptions{Checksum: sum}); err != nil {
		t.Error(err)
	}
	into := filepath.Join(t.TempDir(), "out")
	if err := r.Extract(t.Context(), into, volume.ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(into, "renamed"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// orderly is a site that notes what is written of a sealed file.
type orderly struct {
	transfer.Local
	mu      *sync.Mutex
	offsets *[]int64
	behind  chan struct{} // closed when something behind the first segment has arrived
}

func newOrderly() orderly {
	return orderly{mu: new(sync.Mutex), offsets: new([]int64), behind: make(chan struct{})}
}

func (o orderly) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	f, err := o.Local.Create(p, m)
	return orderlyFile{f, o}, err
}

type orderlyFile struct {
	transfer.WriteFile
	o orderly
}

func (f orderlyFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.WriteFile.WriteAt(b, off)
	f.o.mu.Lock()
	defer f.o.mu.Unlock()
	if *f.o.offsets = append(*f.o.offsets, off); off == volume.SegmentSize {
		close(f.o.behind)
	}
	return n, err
}

// TestLateInput: what is known last is sealed and uploaded last, and all else meanwhile.
func TestLateInput(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	site, in := newOrderly(), newConverted(volume.SegmentSize+5<<20)
	early := 0
	in.last = func() {
		select {
		case <-site.behind:
		case <-time.After(time.Minute):
		}
		site.mu.Lock()
		defer site.mu.Unlock()
		for _, off := range *site.offsets {
			if off >= volume.SegmentSize {
				early++
			} else {
				t.Errorf("what lies at %d was sent before it was known", off)
			}
		}
	}
	s.d.FS, s.r.Input = site, in
	p, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	if early == 0 {
		t.Error("nothing was uploaded before all was sealed")
	}
	if !bytes.Equal(s.read(t, p), in.content) {
		t.Error("what is published is not what was sealed")
	}
}

// TestLateInputAgain: a run that was broken off goes on, and what is published is recognised, without making it again;
// --checksum makes it again, and compares it.
func TestLateInputAgain(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	in := newConverted(300_000)
	s.r.Input = in
	keys := s.service.Client(t, s.d.Signer)
	s.d.Keys = awayKeys{keys}
	if _, err := Run(t.Context(), s.d, s.r); err == nil || !strings.Contains(fault.Hint(err), "the same command goes on") {
		t.Errorf("%v; %s", err, fault.Hint(err))
	}
	s.d.Keys = keys
	for i, c := range []struct {
		what    string
		change  func()
		walks   int
		already bool
	}{
		{"it goes on", func() {}, 1, false},
		{"it is there", func() {}, 1, true},
		{"it is there, under another tag", func() { in.from, s.r.Checksum = "sha256:2", true }, 2, true},
		{"that is remembered", func() { s.r.Checksum = false }, 2, true},
		{"another beginning", func() { in.content[0] ^= 1; s.r.Checksum = true }, 4, false},
		{"another end", func() { in.content[len(in.content)-1] ^= 1 }, 6, false},
		{"longer", func() { in.content = append(in.content, 0) }, 8, false},
		{"only its head", func() { in.content = in.content[:in.head] }, 10, false},
		{"nothing new", func() {}, 11, true},
		{"converted otherwise", func() { in.from, s.r.Checksum = "sha256:3", false }, 12, false},
	} {
		c.change()
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil {
			t.Fatalf("%d, %s: %v", i, c.what, err)
		}
		if p.Already != c.already || in.walks != c.walks {
			t.Errorf("%s: there already %t, walked %d times", c.what, p.Already, in.walks)
		}
		if !bytes.Equal(s.read(t, p), in.content) {
			t.Errorf("%s: what is published is not what was sealed", c.what)
		}
	}
}

// TestLateInputFails: of what cannot be made to its end nothing stays, here or there.
func TestLateInputFails(t *testing.T) {
	t.Parallel()
	for _, size := range []int{300_000, volume.SegmentSize + 5<<20} {
		s := newSetting(t)
		s.withState(t)
		site, in := newOrderly(), newConverted(size)
		s.d.FS, s.r.Input = site, in
		ctx, cancel := context.WithCancel(t.Context())
		in.last = func() {
			if size > volume.SegmentSize {
				<-site.behind
			}
			cancel()
		}
		if _, err := Run(ctx, s.d, s.r); !errors.Is(err, context.Canceled) {
			t.Errorf("%d bytes: %v", size, err)
		}
		s.nothingPublished(t)
		left, _ := filepath.Glob(s.r.DirAtRest + "/*")
		here, _ := filepath.Glob(s.r.SealedPath + "*")
		if len(left)+len(here) > 0 {
			t.Errorf("%d bytes: left %q, %q", size, left, here)
		}
	}
}

// TestNoCheckpoint: where the sealed file cannot be remembered, the run ends, and leaves nothing on the site.
func TestNoCheckpoint(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	site, in := newOrderly(), newConverted(volume.SegmentSize+5<<20)
	in.last = func() {
		<-site.behind
		if err := os.RemoveAll(filepath.Join(s.d.State, "sealed")); err != nil {
			t.Error(err)
		}
	}
	s.d.FS, s.r.Input = site, in
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	s.nothingPublished(t)
	if left, _ := filepath.Glob(s.r.DirAtRest + "/*"); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// convertedFile is what TestKilledLate's victims publish: a file's content over and over, until it is longer than the
// first segment.
func convertedFile(path string) (*converted, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := newConverted(0)
	c.name, c.from = "input", fmt.Sprintf("%x", sha256.Sum256(b))
	c.content = bytes.Repeat(b, (volume.SegmentSize+5<<20)/len(b))
	return c, nil
}

// TestKilledLate: a process dies while the rest is sent, or what is made last. The next one goes on if it was sealed.
func TestKilledLate(t *testing.T) {
	t.Parallel()
	k := newKillable(t, true)
	for _, c := range []struct {
		at    int64
		after bool
		most  int64 // bytes that are sent then; 0 for any number
	}{
		{at: volume.SegmentSize + 1<<20, after: true},
		{at: 0},
		{at: 63 << 20, most: volume.SegmentSize}, // all behind it has arrived
	} {
		k.v.Offset = c.at
		wentOn := k.wentOn
		if !k.round(t, 0, c.after) {
			t.Errorf("it was not killed at %d", c.at)
		}
		if c.at < volume.SegmentSize && k.wentOn == wentOn {
			t.Errorf("killed at %d: it began afresh", c.at)
		}
		if c.most > 0 && k.sent > c.most {
			t.Errorf("killed at %d: %d bytes were sent then", c.at, k.sent)
		}
	}
}
