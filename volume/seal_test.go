package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
)

// actWriter acts at the first write, when most of the input is still unread.
type actWriter struct {
	act  func()
	done bool
}

func (w *actWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.done = true
		w.act()
	}
	return len(p), nil
}

func TestSealRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rcpt := SealOptions{Recipients: []age.Recipient{newIdentity(t).Recipient()}}
	if _, err := Seal(context.Background(), io.Discard, DirSource(dir), SealOptions{}); !errors.Is(err, ErrIdentity) {
		t.Errorf("without recipients: %v", err)
	}
	if _, err := Seal(context.Background(), io.Discard, DirSource(filepath.Join(dir, "none")), rcpt); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without an input: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 8<<20), 0o600))
	full := errors.New("disk full")
	if _, err := Seal(context.Background(), failWriter{full}, DirSource(dir), rcpt); !errors.Is(err, full) {
		t.Errorf("a failing writer: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := Seal(ctx, &actWriter{act: cancel}, DirSource(dir), rcpt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	must(t, os.Symlink(strings.Repeat("x", maxTarget+1), filepath.Join(dir, "g")))
	if _, err := Seal(context.Background(), io.Discard, DirSource(dir), rcpt); !errors.Is(err, ErrName) {
		t.Errorf("a target that does not fit: %v", err)
	}
}

type failWriter struct{ err error }

func (w failWriter) Write([]byte) (int, error) { return 0, w.err }

func TestSealBadSources(t *testing.T) {
	t.Parallel()
	longer := smallTree()
	longer.content["a"] += "!"
	shorter := smallTree()
	shorter.content["twin-1"] = "short"
	orphan := memSource{entries: []Entry{memDir(0, ""), memDir(7, "x")}}
	rootFile := memSource{entries: []Entry{{Attr: Attr{Type: File}}}}
	link := memSource{entries: []Entry{memDir(0, ""), {Name: "x", IsLink: true, Link: 9}}}
	for name, c := range map[string]struct {
		src  Source
		want error
	}{
		"longer":    {longer, ErrChanged},
		"shorter":   {shorter, ErrChanged},
		"orphan":    {orphan, ErrPath},
		"no root":   {rootFile, ErrPath},
		"empty":     {memSource{}, ErrPath},
		"bad link":  {link, ErrPath},
		"dot dot":   {memSource{entries: []Entry{memDir(0, ""), memDir(0, "..")}}, ErrName},
		"slash":     {memSource{entries: []Entry{memDir(0, ""), memDir(0, "a/b")}}, ErrName},
		"long name": {memSource{entries: []Entry{memDir(0, ""), memDir(0, strings.Repeat("x", 256))}}, ErrName},
	} {
		opt := SealOptions{Recipients: []age.Recipient{newIdentity(t).Recipient()}}
		if _, err := Seal(context.Background(), io.Discard, c.src, opt); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOddRootTime: a root with a time that a plain tar header cannot hold. The
// head and the end of the volume have fixed places all the same.
func TestOddRootTime(t *testing.T) {
	t.Parallel()
	for _, sec := range []int64{-1, -1 << 40, 0o77777777777, 0o100000000000, 1 << 50} {
		at := time.Unix(sec, 5)
		src := memSource{entries: []Entry{memDir(0, "")}}
		src.entries[0].Attr.Mtime = at
		s, b := sealFixed(t, src, 1)
		r, err := Open(bytes.NewReader(b), int64(len(b)), s.Key)
		if err != nil {
			t.Errorf("%v: what was sealed does not open: %v", sec, err)
			continue
		}
		if got := r.Attr(0).Mtime; !got.Equal(at) {
			t.Errorf("%v became %v", at, got)
		}
		if string(b[:len(keysName)+1]) != keysName+"\x00" {
			t.Errorf("%v: the volume begins with %.20q", sec, b)
		}
	}
}

func TestSealTwiceDiffers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("same"), 0o600))
	s1, b1 := sealBytes(t, dir)
	s2, b2 := sealBytes(t, dir)
	if s1.ID == s2.ID || s1.Key.Equal(s2.Key) || s1.Digest == s2.Digest || bytes.Equal(b1, b2) {
		t.Error("two seals share something that must be fresh")
	}
}

func TestSealProgressAndMeasure(t *testing.T) {
	t.Parallel()
	dir := oddTree(t)
	var last atomic.Int64
	opt := SealOptions{
		Recipients: []age.Recipient{newIdentity(t).Recipient()},
		Progress: func(done, _ int64) {
			if done < last.Swap(done) {
				t.Error("progress goes back")
			}
		},
	}
	var out bytes.Buffer
	s, err := Seal(context.Background(), &out, DirSource(dir), opt)
	must(t, err)
	if last.Load() != s.PlainBytes {
		t.Errorf("progress ended at %d of %d", last.Load(), s.PlainBytes)
	}
	u, err := DirSource(dir).(Measurer).Measure(context.Background())
	must(t, err)
	if u.PlainBytes != s.PlainBytes || u.Entries != s.Entries || u.SealedBytes < s.Size || u.SealedBytes > s.Size+2<<20 {
		t.Errorf("measured %+v, sealed %d bytes, %d entries, %d plain", u, s.Size, s.Entries, s.PlainBytes)
	}
}

// TestSealMemory is not parallel: it looks at the whole heap.
func TestSealMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	must(t, err)
	must(t, errors.Join(f.Truncate(1<<30), f.Close()))
	runtime.GC()
	w := &heapWriter{}
	w.sample()
	base := w.peak
	_, err = Seal(context.Background(), w, DirSource(path), SealOptions{Recipients: []age.Recipient{newIdentity(t).Recipient()}})
	must(t, err)
	const limit = 32 << 20
	if w.peak > base+limit {
		t.Errorf("sealing 1 GiB took %d MiB of heap", (w.peak-base)>>20)
	}
	if w.bytes < 1<<30 {
		t.Errorf("only %d bytes were written", w.bytes)
	}
}

// heapWriter samples the heap as it is written to.
type heapWriter struct {
	bytes, next int64
	peak        uint64
}

func (w *heapWriter) sample() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.peak = max(w.peak, m.HeapInuse)
}

func (w *heapWriter) Write(p []byte) (int, error) {
	w.bytes += int64(len(p))
	if w.bytes > w.next {
		w.next = w.bytes + 16<<20
		w.sample()
	}
	return len(p), nil
}
