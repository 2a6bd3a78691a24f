package transfer

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
				w.Grow(0, at)
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
		w.Grow(0, 30*testSegment)
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
	w.Grow(0, 2*testSegment)
	p := filepath.Join(t.TempDir(), "d.partial")
	boom := errors.New("boom")
	if err := w.Send(t.Context(), breaking{from: testSegment, to: 1 << 62, err: boom}, p, 0o600); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	writeFile(t, p, strings.Repeat("x", 2*testSegment))
	w.Finish(3*testSegment, known.Segments)
	if err := w.Send(t.Context(), Local{}, p, 0o600); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o600)
}

// lastMade is a file of which the first held bytes are made last. Until then others are there.
type lastMade struct {
	made
	held int64
	done atomic.Bool
}

func (m *lastMade) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.made.ReadAt(p, off)
	if off < m.held && !m.done.Load() {
		return 0, errors.New("read before it is made")
	}
	return n, err
}

// TestSendGrowingHeld: what is made last is sent last, and what was sent before it is not sent again after a cut.
func TestSendGrowingHeld(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		for _, size := range []int{1, pieceSize, 4*pieceSize + 5, 5 * pieceSize, 9*pieceSize + 7} {
			const segment = 4 * pieceSize
			known, data := wholeOf(t, size, segment)
			m := &lastMade{made: made{data: data}, held: segment}
			w := NewGrowing(m, segment)
			p := filepath.Join(t.TempDir(), "d.partial")
			sent := make(chan error, 1)
			site := &counting{FS: fsys}
			go func() { sent <- w.Send(t.Context(), site, p, 0o640) }()
			for at := int64(0); at < int64(size); {
				at = min(at+333_333, int64(size))
				m.size.Store(at)
				w.Grow(segment, at)
			}
			m.done.Store(true)
			w.Finish(int64(size), known.Segments)
			if err := <-sent; err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
			checkFile(t, p, data, 0o640)
			if n := site.sent.Load(); n != int64(size) {
				t.Errorf("%d bytes: %d were sent", size, n)
			}
		}
	})
}

// TestSendGrowingHeldFrom: what was told of as final before is sent at once, and stays.
func TestSendGrowingHeldFrom(t *testing.T) {
	t.Parallel()
	const segment = 4 * pieceSize
	known, data := wholeOf(t, 8*pieceSize, segment)
	m := &lastMade{made: made{data: data}}
	w := NewGrowing(m, segment)
	arrived := make(chan int64, 100)
	w.Progress = func(n int64) { arrived <- n }
	p := filepath.Join(t.TempDir(), "d.partial")
	sent := make(chan error, 1)
	site := &counting{FS: Local{}}
	go func() { sent <- w.Send(t.Context(), site, p, 0o640) }()
	m.size.Store(pieceSize + 1000)
	w.Grow(0, pieceSize+1000)
	if n := <-arrived; n != pieceSize {
		t.Errorf("%d bytes have arrived", n)
	}
	m.size.Store(8 * pieceSize)
	w.Grow(segment, 8*pieceSize)
	for range 4 {
		<-arrived
	}
	if n := site.sent.Load(); n != 5*pieceSize {
		t.Errorf("%d bytes were sent before it was made", n)
	}
	w.Finish(8*pieceSize, known.Segments)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	checkFile(t, p, data, 0o640)
	if n := site.sent.Load(); n != 8*pieceSize {
		t.Errorf("%d bytes were sent", n)
	}
}

// TestSendGrowingHeldCut: a line that breaks before the file is made, or before what was made last has arrived, is made
// good, by this process or a later one: what has arrived of the rest is not sent again.
func TestSendGrowingHeldCut(t *testing.T) {
	t.Parallel()
	const segment, size = 4 * pieceSize, 12 * pieceSize
	for name, c := range map[string]struct {
		finished, later bool
		cut             int64 // fails where this is written
	}{
		"while it is made":                      {cut: 9 * pieceSize},
		"when it is made":                       {finished: true, cut: 9 * pieceSize},
		"at what is made last":                  {finished: true, cut: 0},
		"at what is made last, a later process": {finished: true, cut: 0, later: true},
		"in what is made last, a later process": {finished: true, cut: 2 * pieceSize, later: true},
	} {
		known, data := wholeOf(t, size, segment)
		m := &lastMade{made: made{data: data}, held: segment}
		w := NewGrowing(m, segment)
		m.size.Store(10 * pieceSize)
		w.Grow(segment, 10*pieceSize)
		finish := func() {
			m.size.Store(size)
			m.done.Store(true)
			w.Finish(size, known.Segments)
		}
		var once sync.Once
		w.Progress = func(n int64) {
			if c.cut < segment && n == 6*pieceSize { // all but what is made last
				once.Do(finish)
			}
		}
		p := filepath.Join(t.TempDir(), "d.partial")
		boom := errors.New("boom")
		site := breaking{from: c.cut, to: c.cut + pieceSize, err: boom}
		if err := w.Send(t.Context(), site, p, 0o640); !errors.Is(err, boom) {
			t.Fatalf("%s: %v", name, err)
		}
		if c.finished && c.cut >= segment {
			finish()
		}
		if c.later {
			w = known.again()
		}
		rest := &counting{FS: Local{}}
		sent := make(chan error, 1)
		go func() { sent <- w.Send(t.Context(), rest, p, 0o640) }()
		if !c.finished {
			finish()
		}
		if err := <-sent; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkFile(t, p, data, 0o640)
		if n := rest.sent.Load(); n > size-4*pieceSize {
			t.Errorf("%s: %d bytes were sent again", name, n)
		}
	}
}

// TestSendGrowingHeldReplaced: another file that lies under the name is not gone on with.
func TestSendGrowingHeldReplaced(t *testing.T) {
	t.Parallel()
	const segment, size = 2 * pieceSize, 4 * pieceSize
	for _, when := range []string{"while it is made", "when it is made", "in a later process"} {
		known, data := wholeOf(t, size, segment)
		m := &lastMade{made: made{data: data}, held: segment}
		w := NewGrowing(m, segment)
		m.size.Store(size)
		w.Grow(segment, size)
		p, boom := filepath.Join(t.TempDir(), "d.partial"), errors.New("boom")
		if err := w.Send(t.Context(), breaking{from: 3 * pieceSize, to: size, err: boom}, p, 0o600); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "other")
		writeFile(t, other, strings.Repeat("x", size))
		if err := errors.Join(os.Remove(p), os.Link(other, p)); err != nil {
			t.Fatal(err)
		}
		if when == "in a later process" {
			w = known.again()
		}
		sent := make(chan error, 1)
		send := func() { sent <- w.Send(t.Context(), Local{}, p, 0o600) }
		if when == "while it is made" {
			go send()
		}
		m.done.Store(true)
		if w.growth != nil {
			w.Finish(size, known.Segments)
		}
		if when != "while it is made" {
			send()
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		checkFile(t, p, data, 0o600)
		if b, err := os.ReadFile(other); err != nil || strings.Trim(string(b), "x") != "" {
			t.Errorf("%s: the other file was written, %v", when, err)
		}
	}
}

// breaking is a site where nothing can be written in a stretch of a file.
type breaking struct {
	Local
	from, to int64
	err      error
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
	if off >= f.b.from && off < f.b.to {
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
