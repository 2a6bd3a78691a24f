package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

func TestAddrLimiter(t *testing.T) {
	t.Parallel()
	r := NewAddrLimiter(1e-9, 1)
	for _, tc := range []struct {
		addr string
		want bool
	}{
		{"10.0.0.1:1", true}, {"10.0.0.1:2", false}, {"10.0.0.1", false}, {"10.0.0.2:1", true}, {"[::ffff:10.0.0.2]:1", false},
		{"[2001:db8::1]:1", true}, {"[2001:db8::2]:1", false}, {"[2001:db8:0:1::1]:1", true}, {"junk", true}, {"other junk", false},
	} {
		if got := r.Allow(tc.addr); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.addr, got, tc.want)
		}
	}
	for i := range maxAddrs {
		r.Allow(fmt.Sprintf("[2001:db8:2:%x::1]:1", i))
		if i%1000 == 0 && r.Allow("10.0.0.1:1") {
			t.Error("an address that keeps knocking was forgotten")
		}
	}
	if n := len(r.young) + len(r.old); n > maxAddrs || n < maxAddrs/2 {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	g := New(Limits{Connections: 10, PerSecond: 1, Burst: 1, Memory: 400})
	body := func(addr string, said int64, r io.Reader) ([]byte, func(), error) {
		q := httptest.NewRequest("POST", "/", r)
		q.RemoteAddr, q.ContentLength = addr, said
		return g.Body(httptest.NewRecorder(), q, 100)
	}
	got, done, err := body("10.0.0.1:1", 60, bytes.NewReader(make([]byte, 60)))
	if err != nil || len(got) != 60 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for name, tc := range map[string]struct {
		addr string
		said int64
		r    io.Reader
		want error
	}{
		"one address takes more than a quarter": {"10.0.0.1:2", 60, strings.NewReader(""), ErrBusy},
		"of unknown length, that is the most":   {"10.0.0.1:2", -1, strings.NewReader(""), ErrBusy},
		"said to be too large":                  {"10.0.0.2:1", 101, strings.NewReader(""), ErrTooLarge},
		"is too large":                          {"10.0.0.2:1", -1, iotest.HalfReader(bytes.NewReader(make([]byte, 101))), ErrTooLarge},
		"breaks off":                            {"10.0.0.2:1", 50, iotest.ErrReader(io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
	} {
		if _, _, err := body(tc.addr, tc.said, tc.r); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	var others []func()
	for i := range 3 {
		_, d, err := body(fmt.Sprintf("10.0.1.%d:1", i), -1, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, d)
	}
	if _, _, err := body("10.0.2.1:1", 60, strings.NewReader("")); !errors.Is(err, ErrBusy) {
		t.Errorf("more than there is room for: %v", err)
	}
	done()
	if _, d, err := body("10.0.2.1:1", 60, strings.NewReader("")); err != nil {
		t.Errorf("once there is room: %v", err)
	} else {
		d()
	}
	for _, d := range others {
		d()
	}
	if g.held != 0 || len(g.heldBy) != 0 {
		t.Errorf("%d bytes of %d addresses are still counted", g.held, len(g.heldBy))
	}
}

// TestFairQueue queues ten requests of one address, then one of another: that one
// is the second to work.
func TestFairQueue(t *testing.T) {
	t.Parallel()
	turns := NewFairQueue(1, 40)
	first, err := turns.Enter(t.Context(), "10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	order := make(chan string, 20)
	queue := func(addr string, want int) {
		wg.Go(func() {
			leave, err := turns.Enter(t.Context(), addr)
			if err != nil {
				t.Error(err)
				return
			}
			order <- addr
			leave()
		})
		for waits := 0; waits < want; runtime.Gosched() {
			turns.mu.Lock()
			waits = turns.waiting
			turns.mu.Unlock()
		}
	}
	for i := range 10 {
		queue("10.0.0.1:1", i+1)
	}
	if _, err := turns.Enter(t.Context(), "10.0.0.1:1"); !errors.Is(err, ErrBusy) {
		t.Errorf("one address fills the queue: %v", err)
	}
	queue("10.0.0.2:1", 11)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.Enter(ctx, "10.0.0.3:1"); !errors.Is(err, ErrBusy) {
		t.Errorf("whose caller is gone: %v", err)
	}
	first()
	wg.Wait()
	if a, b := <-order, <-order; a != "10.0.0.1:1" || b != "10.0.0.2:1" {
		t.Errorf("%s, then %s", a, b)
	}
	if turns.free != 1 || turns.waiting != 0 || len(turns.next) != 0 || len(turns.queues) != 0 {
		t.Errorf("left behind: %d free, %d waiting, %d addresses", turns.free, turns.waiting, len(turns.queues))
	}
}

// addressed is a connection from an address of the test's choice.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

type pipes struct{ incoming chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.incoming
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestConnections(t *testing.T) {
	t.Parallel()
	g := New(Limits{Connections: 4, PerSecond: 1e-9, Burst: 3, Memory: 1})
	in := pipes{make(chan net.Conn, 8)} // in the order in which they come
	ln := g.Listener(in)
	knock := func(host byte) net.Conn {
		near, far := net.Pipe()
		in.incoming <- addressed{far, &net.TCPAddr{IP: net.IPv4(10, 0, 0, host), Port: 1}}
		return near
	}
	accept := func(host byte) (net.Conn, net.Conn) {
		t.Helper()
		near := knock(host)
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return near, c
	}
	closed := func(c net.Conn) bool { _, err := c.Read(make([]byte, 1)); return errors.Is(err, io.EOF) }
	near1, c1 := accept(1)
	near2, _ := accept(1)
	g.setWaiting(connOf(c1), false)
	_, c2 := accept(1) // in place of the one that waits, of its own address
	if !closed(near2) {
		t.Error("one address has more than half")
	}
	g.setWaiting(connOf(c2), false)
	third := knock(1)
	near3, c3 := accept(2)
	if !closed(third) {
		t.Error("a third of one address was let in while two are at work")
	}
	_, c4 := accept(2)
	g.ConnState(c2, http.StateIdle) // waits, but not for longest
	_, c5 := accept(3)              // in place of c3, of an address that has as many as the other
	if !closed(near3) {
		t.Error("the one that waited for longest was not closed")
	}
	if len(g.open.open) != 4 {
		t.Errorf("%d are open", len(g.open.open))
	}
	for _, c := range []net.Conn{c1, c2, c3, c4, c5} {
		c.Close()
		c.Close() // twice is no harm
	}
	if !closed(near1) || len(g.open.open) != 0 || len(g.open.from) != 0 || g.open.waiting.Len() != 0 {
		t.Errorf("left behind: %d open, %d addresses, %d waiting", len(g.open.open), len(g.open.from), g.open.waiting.Len())
	}
	for range 2 {
		_, c := accept(1)
		c.Close()
	}
	last := knock(1) // its burst of new connections is used up
	knock(4)
	if c, err := ln.Accept(); err != nil || c.RemoteAddr().String() != "10.0.0.4:1" || !closed(last) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestSmallBodies: whoever holds all the memory for large bodies keeps out no small one.
func TestSmallBodies(t *testing.T) {
	t.Parallel()
	g := New(Limits{Connections: 4, PerSecond: 1, Burst: 1, Memory: 40, Small: 5})
	read := func(host, size int) (func(), error) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", size)))
		r.RemoteAddr = fmt.Sprintf("10.0.0.%d:1", host)
		_, done, err := g.Body(httptest.NewRecorder(), r, 100)
		return done, err
	}
	for host := range 4 {
		if _, err := read(host, 10); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(5, 6); !errors.Is(err, ErrBusy) {
		t.Errorf("a large body: %v", err)
	}
	for range 20 {
		if _, err := read(5, 5); err != nil {
			t.Errorf("a small body: %v", err)
		}
	}
}

// TestMostMakesRoom: where all connections wait, in their handshakes or in requests
// that do not end, the address that has most makes room.
func TestMostMakesRoom(t *testing.T) {
	t.Parallel()
	g := New(Limits{Connections: 6, PerSecond: 1, Burst: 10, Memory: 1})
	in := pipes{make(chan net.Conn, 8)}
	ln := g.Listener(in)
	accept := func(host byte) (near, c net.Conn) {
		t.Helper()
		near, far := net.Pipe()
		in.incoming <- addressed{far, &net.TCPAddr{IP: net.IPv4(10, 0, 0, host), Port: 1}}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return near, c
	}
	_, node := accept(1)
	for _, host := range []byte{2, 2, 2, 3, 3} {
		_, c := accept(host)
		g.ConnState(c, http.StateActive) // its request has begun
	}
	for range 3 {
		accept(4)
	}
	if !g.open.open[connOf(node)] || g.open.from[prefixOf("10.0.0.4")] != 3 {
		t.Errorf("the oldest connection, its address's only one, made room: %v", g.open.from)
	}
}

// TestUnreadAnswers: who does not read an answer keeps no place from others.
func TestUnreadAnswers(t *testing.T) {
	t.Parallel()
	g := New(Limits{Connections: 2, PerSecond: 1, Burst: 10, Memory: 1})
	in := pipes{make(chan net.Conn, 8)}
	ln := g.Listener(in)
	accept := func(host byte) net.Conn {
		t.Helper()
		_, far := net.Pipe()
		in.incoming <- addressed{far, &net.TCPAddr{IP: net.IPv4(10, 0, 0, host), Port: 1}}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := accept(1), accept(2)
	g.setWaiting(connOf(a), false)
	g.setWaiting(connOf(b), false)
	r, err := http.NewRequestWithContext(g.ConnContext(t.Context(), a), http.MethodGet, "https://keys/", nil)
	if err != nil {
		t.Fatal(err)
	}
	g.Answering(r)
	accept(3)
	if g.open.open[connOf(a)] || !g.open.open[connOf(b)] {
		t.Error("the one that does not read its answer did not make room")
	}
}
