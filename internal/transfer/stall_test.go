package transfer

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// frozen is a server whose SFTP server, a process of its own, can be stopped; sshd stays alive.
func frozen(t *testing.T) (s *server, stop func(*testing.T)) {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	s = newServer(t, []string{"ed25519"}, fmt.Sprintf("ForceCommand echo $$ >%s; exec /usr/lib/openssh/sftp-server", pidFile))
	return s, func(t *testing.T) {
		pid, err := strconv.Atoi(readString(t, pidFile))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGSTOP)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	}
}

// impatient logs in with a limit of its own.
func impatient(t *testing.T, s *server, limit time.Duration) *Client {
	t.Helper()
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	o := s.login(t, knownHosts(t, s.line(t, "ed25519")))
	o.Keys, o.Stall = []string{key}, limit
	return mustDial(t, o)
}

func checkStalled(t *testing.T, err error) {
	t.Helper()
	var own *Error
	if !errors.Is(err, ErrConnect) || !errors.As(err, &own) ||
		!strings.Contains(err.Error(), "SFTP server has not answered for") || own.Next == "" {
		t.Errorf("%v", err)
	}
}

// TestFrozenServer freezes the SFTP server behind a live sshd: a question that waits, and an upload,
// become errors; another connection goes on with the upload.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	s, stop := frozen(t)
	c := impatient(t, s, 2*time.Second)
	fsys, err := c.FS()
	if err != nil {
		t.Fatal(err)
	}
	const size = 8*testSegment + 5
	w, data := whole(t, size)
	p := filepath.Join(t.TempDir(), "d.partial")
	// What comes after the third segment meets a server that is stopped.
	at := &stopsAt{ReaderAt: w.Src, off: 3 * testSegment, stop: func() { stop(t) }}
	w.Src = at
	checkStalled(t, w.Send(t.Context(), fsys, p, 0o640))
	_, err = fsys.Lstat(p)
	checkStalled(t, err)
	if _, _, _, err := c.Run(t.Context(), []string{"true"}, nil); !errors.Is(err, ErrConnect) {
		t.Errorf("the connection lives on: %v", err)
	}
	again, err := dial(t, s).FS()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.again().Send(t.Context(), again, p, 0o640); err != nil {
		t.Fatal(err)
	}
	checkFile(t, p, data, 0o640)
}

// stopsAt does something when it is read from an offset on.
type stopsAt struct {
	io.ReaderAt
	off  int64
	stop func()
}

func (s *stopsAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.off && s.stop != nil {
		s.stop()
		s.stop = nil
	}
	return s.ReaderAt.ReadAt(p, off)
}

// TestFrozenFromTheStart: a server that never says a word.
func TestFrozenFromTheStart(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"}, "ForceCommand exec sleep 1000")
	_, err := impatient(t, s, 500*time.Millisecond).FS()
	checkStalled(t, err)
}

// TestWatched: slow is not stalled, and neither is idle. Time is the test's own.
func TestWatched(t *testing.T) {
	t.Parallel()
	request := []byte{0, 0, 0, 5, 1, 2, 3, 4, 5}
	for name, c := range map[string]struct {
		play    func(w *watched, server io.Writer)
		stalled bool
	}{
		"idle for a day":   {func(w *watched, _ io.Writer) { time.Sleep(24 * time.Hour) }, false},
		"answered, idle":   {func(w *watched, s io.Writer) { put(w, request); put(s, request); time.Sleep(24 * time.Hour) }, false},
		"no answer":        {func(w *watched, _ io.Writer) { put(w, request); time.Sleep(3 * time.Minute) }, true},
		"half an answer":   {func(w *watched, s io.Writer) { put(w, request); put(s, request[:6]); time.Sleep(3 * time.Minute) }, true},
		"one of two":       {func(w *watched, s io.Writer) { put(w, request, request); put(s, request); time.Sleep(3 * time.Minute) }, true},
		"idle, no answer":  {func(w *watched, _ io.Writer) { time.Sleep(time.Hour); put(w, request); time.Sleep(time.Minute) }, false},
		"two empty frames": {func(w *watched, s io.Writer) { put(w, make([]byte, 8)); put(s, make([]byte, 8)); time.Sleep(time.Hour) }, false},
		"byte by byte": {func(w *watched, s io.Writer) {
			put(w, request)
			for _, b := range request {
				time.Sleep(100 * time.Second)
				put(s, []byte{b})
			}
			time.Sleep(time.Hour)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, server := io.Pipe()
				w := newWatched(r, nopCloser{io.Discard}, 2*time.Minute)
				stop, done := make(chan struct{}), make(chan struct{})
				go func() { defer close(done); w.watch(stop, server.Close) }()
				read := make(chan struct{})
				go func() { defer close(read); _, _ = io.Copy(io.Discard, w) }()
				c.play(w, server)
				close(stop)
				<-done
				_ = server.Close()
				<-read
				if w.stalled.Load() != c.stalled {
					t.Errorf("stalled: %v", !c.stalled)
				}
			})
		})
	}
}

func put(w io.Writer, packets ...[]byte) {
	for _, p := range packets {
		_, _ = w.Write(p) // never fails here
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestQuickest: what is kept is the quickest answer.
func TestQuickest(t *testing.T) {
	t.Parallel()
	var w watched
	now := time.Now()
	for _, ago := range []time.Duration{time.Hour, time.Minute, 2 * time.Hour} {
		w.asked(now.Add(-ago))
	}
	if got := time.Duration(w.quickest.Load()); got < time.Minute || got > 2*time.Minute {
		t.Errorf("the quickest answer took %v, want a minute", got)
	}
}
