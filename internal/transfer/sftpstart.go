package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// FS opens an SFTP session, once; the connection's end ends it.
func (c *Client) FS() (FS, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sftp == nil {
		s, err := c.startSFTP(c.life, c.stop)
		if err != nil {
			return nil, err
		}
		c.sftp = s
	}
	return *c.sftp, nil
}

// startSFTP opens a session, which is watched until stop.
func (c *Client) startSFTP(ctx context.Context, stop <-chan struct{}) (*remote, error) {
	s, err := c.newSession(ctx)
	if err != nil {
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) {
			err = fail(Error{Kind: ErrNoSFTP, What: c.name + " opens no session for SFTP", Err: refused,
				Next: nextNoSession})
		}
		return nil, err
	}
	r, err := c.speakSFTP(ctx, s, stop)
	if err != nil {
		hangUp(s)
	}
	return r, err
}

// speakSFTP starts the SFTP server of a session.
func (c *Client) speakSFTP(ctx context.Context, s *ssh.Session, stop <-chan struct{}) (*remote, error) {
	in, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	begin, errs := &beginning{r: out}, &head{}
	errPipe, err := s.StderrPipe()
	if err != nil {
		return nil, err
	}
	read := make(chan struct{})
	go func() { // unread, it would fill the session's window
		defer close(read)
		_, _ = io.Copy(errs, errPipe)
	}()
	_, err = within(ctx, c.timeout, func() (any, error) { return nil, s.RequestSubsystem("sftp") }, func(any) {})
	switch {
	case err != nil && strings.HasSuffix(err.Error(), " failed"): // how the library says that the request was refused
		return nil, fail(Error{Kind: ErrNoSFTP, What: c.name + " does not offer SFTP",
			Next: "ask its administrator for it (`Subsystem sftp internal-sftp` in sshd_config), or name another host as [supercomputer] address"})
	case err != nil:
		return nil, c.broke(ctx, err, "starts no SFTP server")
	}
	w := newWatched(begin, in, c.stall)
	go w.watch(stop, c.Close)
	r, err := newRemote(w, c.conn.Close)
	if err != nil {
		if errors.Is(err, ErrConnect) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, c.broke(ctx, err, "starts no SFTP server")
		}
		select {
		case <-read:
		case <-time.After(closeTime):
		}
		return nil, fail(Error{Kind: ErrNoSFTP, Err: err,
			What: "the SFTP server of " + c.name + " does not begin" + said(begin.noise(), errs.bytes()),
			Next: "does `sftp " + c.name + "` work? A start-up file of the login shell (.bashrc, .cshrc, ...) that prints, or ends it, breaks it"})
	}
	r.on, r.s = c, s
	_, limits := r.c.HasExtension("limits@openssh.com")
	if !limits && !strings.Contains(string(c.conn.ServerVersion()), "OpenSSH") {
		err = sftp.MaxPacketChecked(smallPacket)(r.c)
	}
	return r, err
}

// smallPacket is what every server takes (draft-ietf-secsh-filexfer-02, section 3).
const smallPacket = 32 << 10

// head keeps the beginning of what is written to it.
type head struct {
	mu sync.Mutex
	b  []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, p[:min(len(p), maxNoise-len(h.b))]...)
	return len(p), nil
}

func (h *head) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.b...)
}

// Where sshd has the login shell start the SFTP server, start-up files print before it says a word. Its first is its
// version (draft-ietf-secsh-filexfer-02, section 4), which no text looks like:
//
//	length, 4 bytes | type 2 | version, 4 bytes | extensions
const versionHead = 4 + 1 + 4

// maxPreamble bounds what may come before that, in bytes.
const maxPreamble = 16 << 20

// beginning passes a server's stream on from its version on.
type beginning struct {
	r      io.Reader
	said   head
	buf    []byte // read, and not yet passed on
	passed int    // bytes that were left out
	began  bool
}

func (b *beginning) noise() []byte { return b.said.bytes() }

func (b *beginning) Read(p []byte) (int, error) {
	for !b.began {
		if b.passed > maxPreamble {
			return 0, fmt.Errorf("more than %d bytes before the server's version", maxPreamble)
		}
		n, err := b.r.Read(p)
		b.skip(p[:n])
		if err != nil && !b.began {
			_, _ = b.said.Write(b.buf)
			return 0, err
		}
	}
	if len(b.buf) == 0 {
		return b.r.Read(p)
	}
	n := copy(p, b.buf)
	b.buf = b.buf[n:]
	return n, nil
}

// skip leaves out what stands before the version.
func (b *beginning) skip(p []byte) {
	b.buf = append(b.buf, p...)
	for at := 0; at+versionHead <= len(b.buf); at++ {
		if isVersion(b.buf[at:]) {
			_, _ = b.said.Write(b.buf[:at])
			b.buf, b.began = b.buf[at:], true
			return
		}
	}
	drop := max(0, len(b.buf)-versionHead+1)
	_, _ = b.said.Write(b.buf[:drop])
	b.buf, b.passed = append(b.buf[:0], b.buf[drop:]...), b.passed+drop
}

func isVersion(b []byte) bool {
	const most = 16 // versions there have been: 6
	size, version := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[5:])
	return b[4] == answerVersion && size >= 5 && size <= maxAnswer && version > 0 && version <= most
}
