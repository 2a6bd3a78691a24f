package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// recorder remembers what is sent to a server.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	sent []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, p...)
	return r.Conn.Write(p)
}

// recordedRequest is one of the server's, of which the first attributes count.
type recordedRequest struct {
	kind byte
	name string
	open uint32 // flags of SSH_FXP_OPEN
	perm int    // -1 where none was told
}

// requests returns what was sent since the last time.
func (r *recorder) requests(t *testing.T) (all []recordedRequest) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.sent) >= 9 {
		size := 4 + binary.BigEndian.Uint32(r.sent)
		packet := r.sent[:size]
		r.sent = r.sent[size:]
		q := recordedRequest{kind: packet[4], perm: -1}
		if b := (fields{rest: packet[9:]}); q.kind == askOpen || q.kind == askMkdir || q.kind == askSetstat {
			q.name = b.string()
			if q.kind == askOpen {
				q.open = b.number()
			}
			if flags := b.number(); flags == attrPermissions {
				q.perm = int(b.number())
			}
			if b.short || len(b.rest) > 0 {
				t.Errorf("a request of type %d is malformed: %x", q.kind, packet)
			}
		}
		all = append(all, q)
	}
	if len(r.sent) > 0 {
		t.Errorf("half a request was sent: %x", r.sent)
	}
	return all
}

// recorded is a session with a recorded server that works on this machine's files.
func recorded(t *testing.T) (remote, *recorder) {
	t.Helper()
	mine, theirs := net.Pipe()
	server, err := sftp.NewServer(theirs, sftp.WithMaxTxPacket(sftpPacket))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve()
	}()
	t.Cleanup(func() {
		_ = mine.Close()
		<-done
	})
	rec := &recorder{Conn: mine}
	r, err := newRemote(newWatched(rec, rec, time.Minute), rec.Close)
	if err != nil {
		t.Fatal(err)
	}
	_ = rec.requests(t)
	return *r, rec
}

// TestModeGoesAtOnce: whatever makes a file or a directory tells the server the mode with the
// request that makes it, so that nobody can look in before. Nothing opens what is there as if it
// were new, cuts it, or changes it by its name.
func TestModeGoesAtOnce(t *testing.T) {
	t.Parallel()
	r, rec := recorded(t)
	dir := t.TempDir()
	data := bytes.Repeat([]byte("sealed"), 1<<19)
	sum := sha256.Sum256(data)
	local := filepath.Join(dir, "local")
	writeFile(t, local, string(data))
	send := func() error {
		u, f, err := OpenResumable(local, 64<<20, [][sha256.Size]byte{sum})
		if err != nil {
			return err
		}
		return errors.Join(u.Send(t.Context(), r, dir+"/sent.partial", 0o640), f.Close())
	}
	for _, c := range []struct {
		what, name string
		do         func() error
		perm       int // -1: nothing is made
	}{
		{"a directory", dir + "/d", func() error {
			if err := r.Mkdir(dir+"/d", 0o700); !errors.Is(err, ErrMode) { // this server heeds that of files only
				return fmt.Errorf("made by a server that does not heed the mode: %w", err)
			}
			return nil
		}, 0o700},
		{"a file", dir + "/f", func() error {
			f, err := r.Create(dir+"/f", 0o600)
			return errors.Join(err, f.Close())
		}, 0o600},
		{"a staged file", dir + "/sig.partial", func() error { return StageFile(t.Context(), r, dir+"/sig", data[:9], 0o640) }, 0o640},
		{"one over what lies there", dir + "/sig.partial",
			func() error { return StageFile(t.Context(), r, dir+"/sig", data[:9], 0o600) }, 0o600},
		{"a new file", dir + "/new", func() error {
			return WriteNew(t.Context(), r, bytes.NewReader(data), int64(len(data)), dir+"/new", UploadOptions{Mode: 0o700})
		}, 0o700},
		{"a large file", dir + "/sent.partial", send, 0o640},
		{"the rest of it", "", func() error {
			return errors.Join(os.Truncate(dir+"/sent.partial", 1<<20), send())
		}, -1},
	} {
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		made := 0
		for _, q := range rec.requests(t) {
			switch making := q.kind == askMkdir || q.open&openCreate != 0; {
			case q.kind == askSetstat, q.open&openTruncate != 0, q.kind == askOpen && making && q.open&openNew == 0:
				t.Errorf("%s: request %+v", c.what, q)
			case making:
				if made++; q.name != c.name || q.perm != c.perm {
					t.Errorf("%s: %+v is made, want %s with mode %04o", c.what, q, c.name, c.perm)
				}
			}
		}
		if want := min(1, c.perm+1); made != want && c.what != "one over what lies there" {
			t.Errorf("%s: %d were made, want %d", c.what, made, want)
		}
	}
}

// TestModeAtFirstSight: on a real server that masks nothing, a new file and a new directory have
// their mode in the moment in which the server says that they are there.
func TestModeAtFirstSight(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"}, "Match all", "ForceCommand internal-sftp -u 0000")
	fsys, err := dial(t, s).FS()
	if err != nil {
		t.Fatal(err)
	}
	r, dir := fsys.(remote), t.TempDir()
	if _, err := r.c.OpenFile(withMode(dir+"/f", 0o640), openExclusive); err != nil {
		t.Fatal(err)
	}
	if err := r.c.Mkdir(withMode(dir+"/d", 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"/f": 0o640, "/d": fs.ModeDir | 0o700} {
		if info, err := os.Lstat(dir + name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestServerThatHeedsNoMode: what a server made wider than it was told gets no byte, and is not
// removed by its name.
func TestServerThatHeedsNoMode(t *testing.T) {
	t.Parallel()
	said := func(mode uint32) func([]byte) says {
		return always(says{answerAttrs, join(u32(attrPermissions), u32(mode))})
	}
	var asked []byte
	note := func(kind byte) func([]byte) says {
		return func([]byte) says { asked = append(asked, kind); return fine }
	}
	const askWrite, askRemove, askRmdir = 6, 13, 15
	r := evil{askFstat: said(0o100644), askLstat: said(0o40755),
		askWrite: note(askWrite), askRemove: note(askRemove), askRmdir: note(askRmdir), askSetstat: note(askSetstat)}.fs(t)
	if err := StageFile(t.Context(), r, "/d/f", []byte("secret"), 0o600); !errors.Is(err, ErrMode) ||
		!strings.Contains(err.Error(), "0644 instead of 0600") {
		t.Errorf("file: %v", err)
	}
	if err := r.Mkdir("/d", 0o700); !errors.Is(err, ErrMode) {
		t.Errorf("directory: %v", err)
	}
	if len(asked) > 0 {
		t.Errorf("requests %v", asked)
	}
	// A umask may take permissions away: the file gets them when it is complete.
	if err := notWider("/f", 0o600, 0o640); err != nil {
		t.Error(err)
	}
}

// asking returns a whole request.
func asking(kind byte, body ...[]byte) []byte {
	b := join([]byte{kind}, u32(7), join(body...))
	return append(u32(uint32(len(b))), b...)
}

func TestRequestsThatAreNotSent(t *testing.T) {
	t.Parallel()
	const making = openCreate | openNew | 3
	cut := asking(askOpen, text(withMode("/f", 0o600)), u32(making), u32(0))
	for what, p := range map[string][]byte{
		"a file without a mode":      asking(askOpen, text("/f"), u32(making), u32(0)),
		"a mode that is no number":   asking(askOpen, text("/f\x000x00"), u32(making), u32(0)),
		"a mode that is too long":    asking(askOpen, text("/f\x0000600"), u32(making), u32(0)),
		"set-uid":                    asking(askOpen, text("/f\x004755"), u32(making), u32(0)),
		"a second name":              asking(askOpen, text("/f\x00g\x000600"), u32(making), u32(0)),
		"no name":                    asking(askOpen, text("\x000600"), u32(making), u32(0)),
		"a file that may be there":   asking(askOpen, text(withMode("/f", 0o600)), u32(openCreate|3), u32(0)),
		"a file to be cut":           asking(askOpen, text("/f"), u32(openTruncate|3), u32(0)),
		"attributes already":         asking(askOpen, text(withMode("/f", 0o600)), u32(making), u32(4), u32(0o666)),
		"more than a request":        asking(askOpen, text(withMode("/f", 0o600)), u32(making), u32(0), u32(0)),
		"a name longer than it is":   asking(askOpen, u32(1<<31), []byte("/f")),
		"half a request":             cut[:len(cut)-1],
		"too short for any":          cut[:8],
		"a directory without a mode": asking(askMkdir, text("/d"), u32(0)),
		"half of a directory":        asking(askMkdir, text(withMode("/d", 0o700))),
		"a mode by name":             asking(askSetstat, text("/f"), u32(4), u32(0o600)),
		"more than it says":          append(asking(askLstat, text("/f")), 0),
	} {
		var sent bytes.Buffer
		g := newGuard(nil, unclosed{&sent}, nil)
		if n, err := g.Write(p); n != 0 || err == nil || sent.Len() > 0 {
			t.Errorf("%s: %d, %v, sent %x", what, n, err, sent.Bytes())
		}
	}
	var sent bytes.Buffer
	g := newGuard(nil, unclosed{&sent}, nil)
	for _, p := range [][]byte{asking(askOpen, text("/f"), u32(1), u32(0)), asking(askMkdir, text(withMode("/d", 0o750)), u32(0))} {
		if n, err := g.Write(p); n != len(p) || err != nil {
			t.Errorf("%d of %d, %v", n, len(p), err)
		}
	}
	want := join(asking(askOpen, text("/f"), u32(1), u32(0)), asking(askMkdir, text("/d"), u32(4), u32(0o750)))
	if !bytes.Equal(sent.Bytes(), want) {
		t.Errorf("sent %x\nwant %x", sent.Bytes(), want)
	}
}

// TestChangesByNameAreNotSent: what the library offers besides never reaches the server.
func TestChangesByNameAreNotSent(t *testing.T) {
	t.Parallel()
	r, rec := recorded(t)
	file := t.TempDir() + "/f"
	writeFile(t, file, "kept")
	for what, do := range map[string]func() error{
		"chmod":    func() error { return r.c.Chmod(file, 0o644) },
		"truncate": func() error { return r.c.Truncate(file, 0) },
		"create":   func() error { _, err := r.c.Create(file); return err },
		"append":   func() error { _, err := r.c.OpenFile(file, os.O_CREATE|os.O_RDWR); return err },
		"mkdir":    func() error { return r.c.Mkdir(file + "d") },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "not sent") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	for _, q := range rec.requests(t) {
		if slices.Contains([]byte{askOpen, askMkdir, askSetstat}, q.kind) {
			t.Errorf("sent %+v", q)
		}
	}
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// FuzzComplete: whatever the library writes, a request that would make or change something
// by its name goes out with a mode, or not at all.
func FuzzComplete(f *testing.F) {
	f.Add(asking(askOpen, text(withMode("/f", 0o600)), u32(openCreate|openNew), u32(0)))
	f.Add(asking(askMkdir, text(withMode("/d", 0o700)), u32(0)))
	f.Add(asking(askSetstat, text("/f"), u32(4), u32(0o600)))
	f.Fuzz(func(t *testing.T, p []byte) {
		out, err := complete(p)
		if err != nil {
			return
		}
		b := fields{rest: out[9:]}
		switch name := ""; out[4] {
		case askSetstat:
			t.Error("sent by name")
		case askOpen:
			name = b.string()
			if flags := b.number(); flags&openTruncate != 0 || (flags&openCreate != 0 && (b.number() != 4 || strings.Contains(name, "\x00"))) {
				t.Errorf("%x", out)
			}
		case askMkdir:
			if name = b.string(); b.number() != 4 || b.number() > 0o777 || strings.Contains(name, "\x00") || b.short || len(b.rest) > 0 {
				t.Errorf("%x", out)
			}
		}
		if n := 4 + uint64(binary.BigEndian.Uint32(out)); out[4] == askMkdir && n != uint64(len(out)) {
			t.Error(fmt.Sprint(n, len(out)))
		}
	})
}
