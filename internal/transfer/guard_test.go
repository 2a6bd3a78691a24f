package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func text(s string) []byte { return append(u32(uint32(len(s))), s...) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// regular are the attributes of a regular file.
func regular(size uint64) []byte {
	return join(u32(1|4), binary.BigEndian.AppendUint64(nil, size), u32(0o100644))
}

// says is an answer without its number.
type says struct {
	kind byte
	body []byte
}

var (
	handle = says{answerHandle, text("h")}
	over   = says{answerStatus, join(u32(1), text("end"), text(""))} // end of file
	fine   = says{answerStatus, join(u32(0), text(""), text(""))}
)

// evil is an SFTP server that answers as it likes; what it has no answer for, it says is fine.
type evil map[byte]func(ask []byte) says

func always(s says) func([]byte) says { return func([]byte) says { return s } }

// all returns as many bytes as are asked for, for ever.
func all(ask []byte) says {
	return says{answerData, text(strings.Repeat("x", int(binary.BigEndian.Uint32(ask[len(ask)-4:]))))}
}

// serve answers until the client is gone.
func (e evil) serve(c net.Conn) {
	defer c.Close()
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		ask := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(c, ask); err != nil {
			return
		}
		answer := append([]byte{2}, u32(3)...) // the version, to SSH_FXP_INIT
		if ask[0] != 1 {
			s := fine
			switch f, ok := e[ask[0]]; {
			case ok:
				s = f(ask)
			case ask[0] == askOpen || ask[0] == askOpendir:
				s = handle
			}
			answer = join([]byte{s.kind}, ask[1:5], s.body)
		}
		if _, err := c.Write(append(u32(uint32(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// pipe starts the server and gives the client's end.
func (e evil) pipe(t *testing.T) net.Conn {
	t.Helper()
	mine, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.serve(theirs)
	}()
	t.Cleanup(func() {
		_ = mine.Close()
		<-done
	})
	return mine
}

func (e evil) fs(t *testing.T) remote {
	t.Helper()
	c := e.pipe(t)
	r, err := newRemote(newWatched(c, c, time.Minute), c.Close)
	if err != nil {
		t.Fatal(err)
	}
	return *r
}

// uses are what a client asks for, whatever of it the server breaks.
func uses(r FS, dir string) map[string]func() error {
	return map[string]func() error{
		"lstat": func() error {
			info, err := r.Lstat("/f")
			if err == nil {
				_ = info.Size()
			}
			return err
		},
		"readdir":  func() error { _, err := r.ReadDir("/d"); return err },
		"realpath": func() error { _, err := r.RealPath("/f"); return err },
		"readlink": func() error { _, err := r.Readlink("/f"); return err },
		"read":     func() error { _, err := ReadFile(r, "/f", 100); return err },
		"fetch": func() error {
			_, err := Download(context.Background(), r, "/f", filepath.Join(dir, "f"), 1<<20, nil)
			return err
		},
	}
}

// malformed is an answer that no honest server gives.
type malformed struct {
	use    string
	server evil
	says   string
	panics bool // the library, without the guard, where this test can tell
}

func malformedAnswers() map[string]malformed {
	name := join(text("f"), text("-rw f"), regular(1))
	stat := always(says{answerAttrs, regular(300000)})
	return map[string]malformed{
		"a status without a code": {"lstat", evil{askLstat: always(says{answerStatus, nil})}, "cut short", false},
		"attributes that are cut": {"lstat", evil{askLstat: always(says{answerAttrs, join(u32(1), u32(0))})}, "cut short", false},
		"attributes without end": {"lstat", evil{askLstat: always(says{answerAttrs,
			join(u32(1<<31), u32(0x7fffffff))})}, "cut short", false},
		"a size that is negative": {"lstat", evil{askLstat: always(says{answerAttrs, regular(1 << 63)})},
			"more bytes than there can be", false},
		"a handle without a length":       {"readdir", evil{askOpendir: always(says{answerHandle, []byte{0}})}, "cut short", false},
		"a handle longer than the answer": {"readdir", evil{askOpendir: always(says{answerHandle, u32(99)})}, "cut short", false},
		"names that are not there":        {"readdir", evil{askReaddir: always(says{answerName, join(u32(2), name)})}, "cut short", false},
		"a billion names":                 {"readdir", evil{askReaddir: always(says{answerName, join(u32(1<<30), name)})}, "cut short", false},
		"a name longer than the answer": {"readdir", evil{askReaddir: always(says{answerName,
			join(u32(1), u32(1<<31), name)})}, "cut short", false},
		"a path that is not there": {"realpath", evil{askRealpath: always(says{answerName, u32(1)})}, "cut short", false},
		"a target longer than the answer": {"readlink", evil{askReadlink: always(says{answerName,
			join(u32(1), u32(1<<20))})}, "cut short", false},
		"data longer than the answer": {"read", evil{askFstat: stat, askStat: stat,
			askRead: always(says{answerData, join(u32(1000), []byte("x"))})}, "cut short", false},
		"data of no bytes":         {"read", evil{askFstat: stat, askStat: stat, askRead: always(says{answerData, u32(0)})}, "0 bytes", false},
		"all is well, and no data": {"read", evil{askFstat: stat, askStat: stat, askRead: always(fine)}, "success without", false},
		"all is well, and no file": {"lstat", evil{askLstat: always(fine)}, "success without", true},
		"all is well, and no size": {"fetch", evil{askFstat: stat, askStat: always(fine)}, "success without", true},
		"more data than was asked for": {"fetch", evil{askFstat: stat, askStat: stat,
			askRead: always(says{answerData, text(strings.Repeat("x", sftpPacket+1))})}, "were asked for", false},
		"fetched data longer than claimed": {"fetch", evil{askFstat: stat, askStat: stat,
			askRead: always(says{answerData, join(u32(1000), []byte("x"))})}, "cut short", false},
		"fetched data of no bytes": {"fetch", evil{askFstat: stat, askStat: stat,
			askRead: always(says{answerData, u32(0)})}, "0 bytes", false},
	}
}

// TestMalformedAnswers: an answer that is cut, or counts what is not there, is an error that says so.
// Some of these end the process, or loop, when the library sees them: fewer with each of its releases.
func TestMalformedAnswers(t *testing.T) {
	t.Parallel()
	for what, c := range malformedAnswers() {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			err := uses(c.server.fs(t), t.TempDir())[c.use]()
			if !errors.Is(err, ErrProtocol) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v", err)
			}
			if !c.panics {
				return
			}
			conn := c.server.pipe(t)
			bare, err := sftp.NewClientPipe(conn, conn)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if recover() == nil {
					t.Error("without the guard the attack fails, too")
				}
			}()
			_ = uses(remote{c: bare, w: newWatched(nil, nil, time.Minute), g: newGuard(nil, nil, nil)}, t.TempDir())[c.use]()
		})
	}
}

// TestListingsAreBounded: a directory without end takes neither all memory nor all time. What is
// bounded is one listing, not all of a session.
func TestListingsAreBounded(t *testing.T) {
	t.Parallel()
	many := u32(100)
	for i := range 100 {
		many = append(many, join(text(fmt.Sprint(i)), text(""), regular(1))...)
	}
	long := join(u32(1), text(strings.Repeat("x", 200<<10)), text(""), regular(1))
	for what, body := range map[string][]byte{"of many names": many, "of long names": long} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			asked := 0
			r := evil{askReaddir: func([]byte) says {
				if asked++; asked%8 == 0 && asked < 20 {
					return over
				}
				return says{answerName, body}
			}}.fs(t)
			if r.g.most.names != 1<<20 || r.g.most.bytes != 256<<20 {
				t.Errorf("listings are bounded by %+v", r.g.most)
			}
			r.g.most.names, r.g.most.bytes = 1000, 2<<20
			for range 2 {
				if _, err := r.ReadDir("/d"); err != nil {
					t.Fatal(err)
				}
			}
			entries, err := r.ReadDir("/d")
			if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "a directory of more than") {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			if asked > 28 {
				t.Errorf("%d answers were taken", asked)
			}
		})
	}
}

// TestEndlessFile: a file that gives more, or other, than it says it has.
func TestEndlessFile(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		size uint64
		read func([]byte) says
		want error
	}{
		"goes on":                     {10, all, ErrMoving},
		"says it is empty":            {0, all, ErrMoving},
		"is shorter":                  {100_000, always(over), ErrMoving},
		"is larger than is asked for": {1 << 62, all, nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := evil{askFstat: always(says{answerAttrs, regular(c.size)}),
				askStat: always(says{answerAttrs, regular(c.size)}), askRead: c.read}.fs(t)
			if err := uses(r, dir)["fetch"](); err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("fetch: %v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			err := uses(r, dir)["read"]()
			if what != "is shorter" && (err == nil || !strings.Contains(err.Error(), "larger than 100 bytes")) {
				t.Errorf("read: %v", err)
			}
		})
	}
}

// TestNamesFromElsewhere: a name in a listing never has a directory's.
func TestNamesFromElsewhere(t *testing.T) {
	t.Parallel()
	body := u32(3)
	for _, name := range []string{"../../etc/passwd", "/etc/shadow", "a/../../b"} {
		body = append(body, join(text(name), text(""), regular(1))...)
	}
	answers := []says{{answerName, body}, over}
	r := evil{askReaddir: func([]byte) says { s := answers[0]; answers = answers[1:]; return s }}.fs(t)
	entries, err := r.ReadDir("/d")
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		if !fs.ValidPath(e.Name()) || strings.Contains(e.Name(), "/") {
			t.Errorf("name %q", e.Name())
		}
	}
}

// FuzzGuard: whatever passes the guard, the library takes without ending the process.
func FuzzGuard(f *testing.F) {
	f.Add(byte(answerName), join(u32(1), text("f"), text("-rw f"), regular(1)))
	f.Add(byte(answerAttrs), join(u32(1<<31|15), make([]byte, 28), u32(1), text("a"), text("b")))
	f.Add(byte(answerStatus), join(u32(4), text("no"), text("")))
	f.Add(byte(answerData), text("data"))
	f.Add(byte(answerHandle), text("h"))
	f.Add(byte(201), make([]byte, 88))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if len(body) > maxAnswer-5 {
			return
		}
		left := 3
		once := func([]byte) says {
			if left--; left < 0 {
				return over
			}
			return says{kind, body}
		}
		server := evil{askLstat: once, askReaddir: once, askOpendir: always(handle), askRead: once, askFstat: once,
			askRealpath: once, askReadlink: once, 4: once}
		for _, use := range []string{"lstat", "readdir", "realpath", "readlink", "read"} {
			left = 3
			_ = uses(server.fs(t), "")[use]()
		}
	})
}
