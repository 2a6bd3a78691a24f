package transfer

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// made is a file that is still being made: nothing beyond size is there.
type made struct {
	data []byte
	size atomic.Int64
}

func (m *made) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > m.size.Load() {
		return 0, errors.New("read beyond what is made")
	}
	return copy(p, m.data[off:]), nil
}

// TestSendGrowing sends a file while it is made; a cut in between is made good, by this process or, once
// the file is whole, a later one.
func TestSendGrowing(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		for _, size := range []int{1, pieceSize, 3*testSegment + 5} {
			known, data := whole(t, size)
			m := &made{data: data}
			w := NewGrowing(m, testSegment)
			arrived := make(chan int64, 1000)
			w.Progress = func(n int64) { arrived <- n }
			p := filepath.Join(t.TempDir(), "d.partial")
			sent := make(chan error, 1)
			go func() { sent <- w.Send(t.Context(), fsys, p, 0o640) }()
			for at := int64(0); at < int64(size); {
				at = min(at+333_333, int64(size))
				m.size.Store(at)
				w.Grow(at)
			}
			if size >= pieceSize {
				<-arrived // before it is finished
			}
			w.Finish(int64(size), known.Segments)
			if err := <-sent; err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			checkFile(t, p, data, 0o640)
		}
	})
}

func TestSendGrowingCut(t *testing.T) {
	t.Parallel()
	for name, finished := range map[string]bool{"while it is made": false, "when it is made": true} {
		s := newServer(t, []string{"ed25519"})
		known, data := whole(t, 40*testSegment)
		m := &made{data: data}
		w := NewGrowing(m, testSegment)
		m.size.Store(30 * testSegment)
		w.Grow(30 * testSegment)
		cut := false
		w.Progress = func(n int64) {
			if n > 20*testSegment && !cut {
				cut = true
				s.kill()
			}
		}
		p := filepath.Join(t.TempDir(), "d.partial")
		fsys, err := dial(t, s).FS()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(t.Context(), fsys, p, 0o640); !errors.Is(err, ErrConnect) {
			t.Fatalf("%s: Send over a cut connection: %v", name, err)
		}
		if fsys, err = dial(t, s).FS(); err != nil {
			t.Fatal(err)
		}
		site := &counting{FS: fsys}
		finish := func() {
			m.size.Store(40 * testSegment)
			w.Finish(40*testSegment, known.Segments)
		}
		if finished {
			finish()
		}
		sent := make(chan error, 1)
		go func() { sent <- w.Send(t.Context(), site, p, 0o640) }()
		if !finished {
			finish()
		}
		if err := <-sent; err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := site.sent.Load(); n > 25*testSegment {
			t.Errorf("%s: %d bytes were sent again", name, n)
		}
		checkFile(t, p, data, 0o640)
	}
}

// TestSendGrowingReplaced: after a cut, something else lies under the name: it is not gone on with.
func TestSendGrowingReplaced(t *testing.T) {
	t.Parallel()
	known, data := whole(t, 3*testSegment)
	w := NewGrowing(strings.NewReader(string(data)), testSegment)
	w.Grow(2 * testSegment)
	p := filepath.Join(t.TempDir(), "d.partial")
	boom := errors.New("boom")
	if err := w.Send(t.Context(), breaking{after: testSegment, err: boom}, p, 0o600); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	writeFile(t, p, strings.Repeat("x", 2*testSegment))
	w.Finish(3*testSegment, known.Segments)
	if err := w.Send(t.Context(), Local{}, p, 0o600); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o600)
}

// breaking is a site where nothing can be written from an offset on.
type breaking struct {
	Local
	after int64
	err   error
}

func (b breaking) Create(p string, m os.FileMode) (WriteFile, error) {
	f, err := b.Local.Create(p, m)
	return breakingFile{f, b}, err
}

type breakingFile struct {
	WriteFile
	b breaking
}

func (f breakingFile) WriteAt(p []byte, off int64) (int, error) {
	if off >= f.b.after {
		return 0, f.b.err
	}
	return f.WriteFile.WriteAt(p, off)
}

// TestSendAbandoned ends at once.
func TestSendAbandoned(t *testing.T) {
	t.Parallel()
	w := NewGrowing(strings.NewReader(""), testSegment)
	sent := make(chan error, 1)
	go func() { sent <- w.Send(t.Context(), Local{}, filepath.Join(t.TempDir(), "p"), 0o600) }()
	w.Abandon(io.ErrUnexpectedEOF)
	if err := <-sent; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestSendGrowingAltered: what is sent once the file is whole is held against its digests.
func TestSendGrowingAltered(t *testing.T) {
	t.Parallel()
	_, data := whole(t, 2*testSegment)
	w := NewGrowing(strings.NewReader(string(data)), testSegment)
	w.Finish(2*testSegment, make([][sha256.Size]byte, 2))
	if err := w.Send(t.Context(), Local{}, filepath.Join(t.TempDir(), "p"), 0o600); !errors.Is(err, ErrSource) {
		t.Error(err)
	}
}
