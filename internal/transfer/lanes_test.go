package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/transfer/transfertest"
)

// far is a login node at the end of a long line, and how to reach it.
func far(t *testing.T, s *server, lines ...string) (*transfertest.Line, Options) {
	t.Helper()
	line, err := transfertest.Start(t.Context(), s.addr.String(), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = line.Close() })
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	o := s.login(t, knownHosts(t, strings.Replace(s.line(t, "ed25519"), s.name(), fmt.Sprintf("[127.0.0.1]:%d", line.Port()), 1)), lines...)
	o.Port, o.Keys = line.Port(), []string{key}
	return line, o
}

func remoteFS(t *testing.T, o Options) FS {
	t.Helper()
	fsys, err := mustDial(t, o).FS()
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// sessions is how many SFTP sessions a server has had.
func (s *server) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.log.String(), "subsystem 'sftp'")
}

// waitsAt lets nobody read beyond an offset until something is so.
type waitsAt struct {
	io.ReaderAt
	off  int64
	what string
	is   func() bool
	t    *testing.T
}

func (w *waitsAt) ReadAt(p []byte, off int64) (int, error) {
	for end := time.Now().Add(20 * time.Second); off >= w.off && !w.is(); time.Sleep(5 * time.Millisecond) { // it happens at the server
		if time.Now().After(end) {
			w.t.Error("it is not so: " + w.what)
			break
		}
	}
	return w.ReaderAt.ReadAt(p, off)
}

// TestLanes: over a long line several connections send one file; where a person had to answer, or no
// more connections are wanted or taken, sessions of the first do, or it alone.
func TestLanes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change            func(o *Options)
		sshd              string
		connections, most int // of SSH, and sessions
	}{
		"several":          {func(*Options) {}, "", defaultConnections, 2 * defaultConnections},
		"two are wanted":   {func(o *Options) { o.Connections = 2 }, "", 2, 4},
		"one is wanted":    {func(o *Options) { o.Connections = 1 }, "", 1, 1},
		"a passphrase":     {withPassphrase, "", 1, 2 * defaultConnections},
		"one session each": {func(*Options) {}, "MaxSessions 1", defaultConnections, defaultConnections},
		"only one session": {withPassphrase, "MaxSessions 1", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, []string{"ed25519"}, c.sshd)
			line, o := far(t, s)
			c.change(&o)
			if o.Prompt != nil {
				keygen(t, "-p", "-f", o.Keys[0], "-N", "secret")
			}
			fsys := remoteFS(t, o)
			w, data := whole(t, 24*testSegment+99)
			w.Src = &waitsAt{w.Src, 12 * testSegment, "all sessions have begun", func() bool { return s.sessions() >= c.most }, t}
			p := filepath.Join(t.TempDir(), "d.partial")
			if err := w.Send(t.Context(), fsys, p, 0o640); err != nil {
				t.Fatal(err)
			}
			checkFile(t, p, data, 0o640)
			if n := line.Connections(); n != c.connections {
				t.Errorf("%d connections, want %d", n, c.connections)
			}
			if n := s.sessions(); n != c.most {
				t.Errorf("%d sessions, want %d", n, c.most)
			}
		})
	}
}

// TestLanesHeld: they help with a file that is still being made, too, whose beginning is made last.
func TestLanesHeld(t *testing.T) {
	t.Parallel()
	const segment, size = 4 * pieceSize, 28*pieceSize + 99
	s := newServer(t, []string{"ed25519"})
	_, o := far(t, s)
	fsys := remoteFS(t, o)
	known, data := wholeOf(t, size, segment)
	m := &lastMade{made: made{data: data}, held: segment}
	m.size.Store(size)
	var once sync.Once
	var w *ResumableUpload
	finish := func() {
		m.done.Store(true)
		w.Finish(size, known.Segments)
	}
	w = NewGrowing(&waitsAt{m, 20 * pieceSize, "all sessions have begun", func() bool {
		there := s.sessions() >= 2*defaultConnections
		if there {
			once.Do(finish)
		}
		return there
	}, t}, segment)
	w.Grow(segment, size)
	p := filepath.Join(t.TempDir(), "d.partial")
	if err := w.Send(t.Context(), fsys, p, 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o640)
	if w.alone {
		t.Error("another connection failed")
	}
}

// TestNoLanes: to a login node that is near, one session is all, although its answers wait behind what is
// uploaded.
func TestNoLanes(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	fsys := remoteFS(t, reach(t, s))
	dir := t.TempDir()
	for range 100 { // one of them is quick, whatever else this machine does
		if _, err := fsys.Lstat(dir); err != nil {
			t.Fatal(err)
		}
	}
	w, data := whole(t, 24*testSegment)
	p := filepath.Join(dir, "d.partial")
	if err := w.Send(t.Context(), fsys, p, 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o640)
	if n := s.sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// withPassphrase has the key need one.
func withPassphrase(o *Options) {
	o.Prompt = func(context.Context, Prompt) (string, error) { return "secret", nil }
}

// TestLaneBreaks: an upload does without a further connection that breaks, and sends nothing again that
// has arrived.
func TestLaneBreaks(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	line, o := far(t, s)
	w, data := whole(t, 48*testSegment)
	site := &counting{FS: remoteFS(t, o)}
	w.Src = &waitsAt{w.Src, 12 * testSegment, "all sessions have begun", func() bool { return s.sessions() == 2*defaultConnections }, t}
	var once sync.Once
	w.Progress = func(n int64) {
		if n > 24*testSegment {
			once.Do(func() { line.Break(1) })
		}
	}
	p := filepath.Join(t.TempDir(), "d.partial")
	if err := w.Send(t.Context(), laneCounting{site}, p, 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o640)
	if n := site.sent.Load(); !w.alone || n > int64(len(data)+maxLanes*writersOfALane*pieceSize) {
		t.Errorf("alone: %v, %d bytes were sent of %d", w.alone, n, len(data))
	}
}

// laneCounting counts what all connections write.
type laneCounting struct{ *counting }

func (l laneCounting) lanes(ctx context.Context, join func(FS)) func() {
	return l.FS.(laned).lanes(ctx, func(fsys FS) { join(&countingLane{FS: fsys, all: l.counting}) })
}

type countingLane struct {
	FS
	all *counting
}

func (c *countingLane) Reopen(p string) (WriteFile, error) {
	f, err := c.FS.Reopen(p)
	return countingFile{f, c.all}, err
}

// TestLaneFindsAnother: who can write the directory puts a link to a file of the user's in the upload's
// place before a further connection opens it. That one does not write there.
func TestLaneFindsAnother(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	_, o := far(t, s)
	dir := t.TempDir()
	victim, p := filepath.Join(dir, "authorized_keys"), filepath.Join(dir, "d.partial")
	writeFile(t, victim, strings.Repeat("precious", 4*testSegment))
	before := readString(t, victim)
	w, _ := whole(t, 24*testSegment)
	site := swappedForLanes{FS: remoteFS(t, o), swap: func() error { return errors.Join(os.Rename(p, p+".away"), os.Symlink(victim, p)) }}
	w.Src = &waitsAt{w.Src, 12 * testSegment, "all sessions have begun", func() bool { return s.sessions() == 2*defaultConnections }, t}
	if err := w.Send(t.Context(), &site, p, 0o640); err == nil {
		t.Error("that the file is not there any more was not noticed")
	}
	if site.joined.Load() == 0 {
		t.Error("no further connection came")
	}
	if readString(t, victim) != before {
		t.Error("the file behind the link was written to")
	}
}

type swappedForLanes struct {
	FS
	swap   func() error
	once   sync.Once
	joined atomic.Int32
}

func (s *swappedForLanes) lanes(ctx context.Context, join func(FS)) func() {
	return s.FS.(laned).lanes(ctx, func(fsys FS) {
		s.joined.Add(1)
		s.once.Do(func() {
			if err := s.swap(); err != nil {
				panic(err)
			}
		})
		join(fsys)
	})
}
