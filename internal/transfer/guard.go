package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
)

// Bounds of what a server may say. OpenSSH's packets are no larger than 256 KiB, nor does the library
// take any that are.
const (
	maxAnswer       = 256 << 10
	maxListed       = 1 << 20 // names in one directory
	maxListingBytes = 256 << 20
)

// Requests and answers of SFTP 3 (draft-ietf-secsh-filexfer-02, section 3) whose content is looked at.
const (
	askInit     = 1
	askOpen     = 3
	askRead     = 5
	askLstat    = 7
	askFstat    = 8
	askOpendir  = 11
	askReaddir  = 12
	askRealpath = 16
	askStat     = 17
	askReadlink = 19

	answerVersion = 2
	answerStatus  = 101
	answerHandle  = 102
	answerData    = 103
	answerName    = 104
	answerAttrs   = 105
)

// guard stands between the login node and the SFTP library, which believes the lengths and counts that
// it reads: a wrong one ends the process, and a listing without end takes all memory. Only whole
// answers pass, and only those that are what their type says and what was asked for. In the other
// direction it completes requests (complete).
type guard struct {
	r       io.Reader
	w       io.WriteCloser
	refused func(why error) // nothing passes any more
	buf     []byte          // 4 bytes of length and the answer, reused
	rest    []byte          // of buf, not yet read by the library
	more    int             // bytes of a request that the library has yet to write
	names   atomic.Int64
	listed  atomic.Int64                 // bytes
	most    struct{ names, bytes int64 } // of one listing

	mu    sync.Mutex
	asked map[uint32]request // by number
}

// request is what an answer is held against.
type request struct {
	kind byte
	most uint32 // bytes to read
}

func newGuard(r io.Reader, w io.WriteCloser, refused func(error)) *guard {
	g := &guard{r: r, w: w, refused: refused, buf: make([]byte, 4+maxAnswer), asked: map[uint32]request{}}
	g.most.names, g.most.bytes = maxListed, maxListingBytes
	return g
}

// Close ends the session.
func (g *guard) Close() error { return g.w.Close() }

// Write passes requests on and remembers them. The library writes one after the other, and each one's
// beginning, all but the bytes to write, at once.
func (g *guard) Write(p []byte) (int, error) {
	sent, more := p, g.more
	if more == 0 {
		var err error
		if sent, err = complete(p); err != nil {
			return 0, fmt.Errorf("SFTP request not sent: %w", err)
		}
		more = 4 + int(binary.BigEndian.Uint32(p))
	}
	if len(p) > more {
		return 0, errors.New("SFTP request not sent: it is longer than it says")
	}
	if g.more == 0 {
		g.remember(p)
	}
	g.more = more - len(p)
	if _, err := g.w.Write(sent); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (g *guard) remember(p []byte) {
	q := request{kind: p[4]}
	if q.kind == askRead {
		q.most = binary.BigEndian.Uint32(p[len(p)-4:]) // its last field
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if q.kind != askInit {
		g.asked[binary.BigEndian.Uint32(p[5:])] = q
	}
}

// recall returns what an answer is to, once.
func (g *guard) recall(answer []byte) (request, error) {
	if answer[4] == answerVersion {
		return request{kind: askInit}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	number := binary.BigEndian.Uint32(answer[5:])
	q, ok := g.asked[number]
	if delete(g.asked, number); !ok {
		return q, errors.New("an answer to nothing that was asked")
	}
	return q, nil
}

// listing begins a new listing. Others that are under way are allowed that much more.
func (g *guard) listing() {
	g.names.Store(0)
	g.listed.Store(0)
}

// Read passes on what was checked.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

func (g *guard) next() error {
	if _, err := io.ReadFull(g.r, g.buf[:4]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(g.buf)
	if size < 5 || size > maxAnswer {
		return g.refuse(fmt.Errorf("an answer of %d bytes", size))
	}
	answer := g.buf[:4+size]
	if _, err := io.ReadFull(g.r, answer[4:]); err != nil {
		return err
	}
	q, err := g.recall(answer)
	if err == nil {
		err = g.check(q, answer[4], answer[9:])
	}
	if err != nil {
		return g.refuse(err)
	}
	g.rest = answer
	return nil
}

// refuse has the connection ended: requests could wait for ever for such a server to take them.
func (g *guard) refuse(why error) error {
	g.refused(why)
	return why
}

// check looks at an answer; body begins after its number.
func (g *guard) check(q request, kind byte, body []byte) error {
	b := fields{rest: body}
	switch kind {
	case answerStatus:
		if code := b.number(); code == 0 && !b.short && wantsMore(q.kind) {
			return errors.New("success without what was asked for")
		}
	case answerHandle:
		b.text()
	case answerData:
		// The end of a file has a status of its own: without a byte each time, reading would never end.
		if n := b.text(); !b.short && (n == 0 || n > q.most) {
			return fmt.Errorf("%d bytes, where 1 to %d were asked for", n, q.most)
		}
	case answerName:
		if err := g.list(&b); err != nil {
			return err
		}
	case answerAttrs:
		b.attributes()
	}
	switch {
	case b.short:
		return fmt.Errorf("an answer of type %d that is cut short", kind)
	case b.huge:
		return errors.New("a file of more bytes than there can be")
	}
	return nil
}

// wantsMore reports whether a request is not answered by a mere status that all is well.
func wantsMore(kind byte) bool {
	switch kind {
	case askOpen, askRead, askLstat, askFstat, askOpendir, askReaddir, askRealpath, askStat, askReadlink:
		return true
	}
	return false
}

// list passes over names, and counts them.
func (g *guard) list(b *fields) error {
	size, names := len(b.rest), b.number()
	for i := uint32(0); i < names && !b.short; i++ {
		b.text()
		b.text()
		b.attributes()
	}
	if b.short {
		return nil // check says so
	}
	if g.names.Add(int64(names)) > g.most.names || g.listed.Add(int64(size)) > g.most.bytes {
		return fmt.Errorf("a directory of more than %d files, or with names of more than %d MiB", g.most.names, g.most.bytes>>20)
	}
	return nil
}

// fields walks over an answer's fields; short says that one goes beyond its end.
type fields struct {
	rest  []byte
	short bool
	huge  bool // a file's size is negative as an int64
}

func (f *fields) take(n uint32) []byte {
	if f.short = f.short || uint64(n) > uint64(len(f.rest)); f.short {
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) number() uint32 {
	b := f.take(4)
	if f.short {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// string reads a string.
func (f *fields) string() string { return string(f.take(f.number())) }

// text passes over a string and gives its length.
func (f *fields) text() uint32 { return uint32(len(f.take(f.number()))) }

// attributes passes over a file's attributes (section 5 of the draft).
func (f *fields) attributes() {
	flags := f.number()
	if flags&1 != 0 {
		if size := f.take(8); !f.short && binary.BigEndian.Uint64(size) > math.MaxInt64 {
			f.huge = true
		}
	}
	for _, field := range []struct{ flag, size uint32 }{{2, 8}, {4, 4}, {8, 8}} { // owners, permissions, times
		if flags&field.flag != 0 {
			f.take(field.size)
		}
	}
	if flags&(1<<31) != 0 {
		for n := f.number(); n > 0 && !f.short; n-- {
			f.text()
			f.text()
		}
	}
}
