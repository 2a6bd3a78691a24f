package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// within has f done before ctx ends, and within a limit (errTimeout). What f makes too late, undo ends.
func within[T any](ctx context.Context, limit time.Duration, f func() (T, error), undo func(T)) (T, error) {
	type result struct {
		made T
		err  error
	}
	done := make(chan result, 1)
	go func() {
		made, err := f()
		done <- result{made, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var err error
	select {
	case r := <-done:
		return r.made, r.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errTimeout
	}
	go func() {
		if r := <-done; r.err == nil {
			undo(r.made)
		}
	}()
	var none T
	return none, err
}

// newSession opens a session. An *ssh.OpenChannelError is returned as it is: the login node allows no more of them.
func (c *Client) newSession(ctx context.Context) (*ssh.Session, error) {
	s, err := within(ctx, c.timeout, c.conn.NewSession, hangUp)
	var refused *ssh.OpenChannelError
	if err == nil || errors.As(err, &refused) {
		return s, err
	}
	return nil, c.broke(ctx, err, "opens no session")
}

// hangUp ends a session; a login node that is frozen may keep it waiting.
func hangUp(s *ssh.Session) { go func() { _ = s.Close() }() }

// broke returns what became of the connection when err kept it from something, which what says. One that does not
// answer is given up.
func (c *Client) broke(ctx context.Context, err error, what string) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errTimeout):
		go func() { _ = c.Close() }()
		return fail(Error{Kind: ErrConnect, What: fmt.Sprintf("%s does not answer: it %s within %v", c.name, what, c.timeout),
			Next: "it may be overloaded or frozen: run the same command again when `ssh " + c.name + "` works"})
	}
	return fail(Error{Kind: ErrConnect, What: "the connection to the login node is lost", Err: err})
}

// closeTime is how long a session that has ended may take to be closed, where there can only be one.
const closeTime = 5 * time.Second

// pauses are made when the second connection opens no session: sshd may not have noticed yet that the last one has
// ended. A connection that opens none for so long, or that broke, is made anew.
var pauses = []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond, 0, 0}

// commandSession opens a session for a command; done gives it back, and hears when that has ended. Where the
// connection has as many as the login node allows on one (sshd_config's MaxSessions, which may be 1, and SFTP has
// that), it is one of a second connection, on which one command runs at a time.
func (c *Client) commandSession(ctx context.Context) (_ *ssh.Session, done func(ended <-chan struct{}), err error) {
	var refused *ssh.OpenChannelError
	s, err := c.newSession(ctx)
	if err == nil {
		return s, func(<-chan struct{}) { hangUp(s) }, nil
	}
	if !errors.As(err, &refused) {
		return nil, nil, err
	}
	select {
	case c.second.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	for _, pause := range pauses {
		if s, err = c.second.newSession(ctx, c); err == nil {
			return s, func(ended <-chan struct{}) { c.second.give(s, ended) }, nil
		}
		if (!errors.As(err, &refused) || pause == 0) && !c.second.close() {
			break // there was none, and none can be made
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	<-c.second.turn
	if errors.As(err, &refused) {
		return nil, nil, fail(Error{Kind: ErrNoCommands, What: c.name + " opens no session for a command", Err: refused,
			Next: nextNoSession})
	}
	return nil, nil, fmt.Errorf("%s allows no further session on one connection, and there is no second one: %w", c.name, err)
}

const nextNoSession = "ask its administrator to allow one: sshd_config may have MaxSessions 0 there, or another limit of sessions"

// besides is a connection beside the first.
type besides struct {
	turn chan struct{} // held by who uses it
	mu   sync.Mutex
	conn *Client
	end  bool
}

// give has the next one use the connection, once a session on it has ended.
func (o *besides) give(s *ssh.Session, ended <-chan struct{}) {
	select {
	case <-ended:
	case <-time.After(closeTime):
	}
	hangUp(s)
	<-o.turn
}

// newSession opens a session, on a connection that is made if there is none. Somebody is asked again only
// where somebody was before.
func (o *besides) newSession(ctx context.Context, first *Client) (*ssh.Session, error) {
	o.mu.Lock()
	conn, end := o.conn, o.end
	o.mu.Unlock()
	if end {
		return nil, first.broke(ctx, io.ErrClosedPipe, "")
	}
	if conn == nil {
		how := first.again
		if first.asked {
			how.Prompt = first.prompt
		}
		var err error
		if conn, err = connect(ctx, first.life, how); err != nil {
			return nil, err
		}
		o.mu.Lock()
		o.conn, end = conn, o.end
		o.mu.Unlock()
		if end {
			o.close()
		}
	}
	return conn.newSession(ctx)
}

// close ends the connection, if there is one, which it reports; another can be made.
func (o *besides) close() bool {
	o.mu.Lock()
	conn := o.conn
	o.conn = nil
	o.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	return conn != nil
}

// shut ends the connection for good.
func (o *besides) shut() {
	o.mu.Lock()
	o.end = true
	o.mu.Unlock()
	o.close()
}

// stream is one stream of a command that runs.
type stream struct {
	mu     sync.Mutex
	answer answer
	begun  chan struct{} // closed when its answer begins
	done   chan struct{} // closed when that is whole, or too long
}

func newStream(mark string) *stream {
	return &stream{answer: answer{mark: mark}, begun: make(chan struct{}), done: make(chan struct{})}
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun, done := s.answer.begun, s.answer.ended || s.answer.over
	_, _ = s.answer.Write(p) // never fails
	if !begun && s.answer.begun {
		close(s.begun)
	}
	if !done && (s.answer.ended || s.answer.over) {
		close(s.done)
	}
	return len(p), nil
}

// got returns what is known by now.
func (s *stream) got() answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answer
	a.noise = bytes.Clone(a.noise)
	return a
}
