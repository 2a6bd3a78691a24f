// Package gate bounds what a network service takes on, so that a flood from
// some addresses leaves room for the others: connections, requests a second,
// memory for bodies, and turns at work. Everything in it is bounded, whatever
// number of addresses knocks. An address is an IPv4 address or an IPv6 /64.
package gate

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// ErrBusy is returned for a request that is one too many; it may come again later.
var ErrBusy = errors.New("too much at once")

// ErrTooLarge is returned for a body that exceeds its bound.
var ErrTooLarge = errors.New("body is too large")

// Limits of a Gate. All are required.
type Limits struct {
	// Connections are open at once; one address has half of them at most. The
	// one too many takes the room of that, of the same address or of the one that
	// has most, which has been idle, in its handshake or in a request that is not
	// there as a whole, for longest.
	Connections int
	// PerSecond and Burst bound an address's requests. Of new connections it
	// may make twice as many, so that whoever makes too many requests can be told so.
	PerSecond float64
	Burst     int
	// Memory bounds the bodies that are held at once, in bytes; one address
	// has a quarter of it at most. Bodies of up to Small bytes are bounded by the
	// connections alone, so that announcing large ones keeps out no small one.
	Memory, Small int64
}

// Gate holds the counts of one service.
type Gate struct {
	limits      Limits
	requests    *AddrLimiter
	connections *AddrLimiter
	open        connections
	mu          sync.Mutex // of what follows
	held        int64
	heldBy      map[netip.Prefix]int64
}

// New returns a gate with limits l.
func New(l Limits) *Gate {
	return &Gate{limits: l, requests: NewAddrLimiter(l.PerSecond, l.Burst), connections: NewAddrLimiter(2*l.PerSecond, 2*l.Burst),
		open: newConnections(l.Connections), heldBy: map[netip.Prefix]int64{}}
}

// Allow reports whether remote (HOST:PORT) may make a request now.
func (g *Gate) Allow(remote string) bool { return g.requests.Allow(remote) }

// What anybody may send is small: bytes of a body, and the time that it may take.
const (
	SmallBody     = 64 << 10
	smallBodyTime = 10 * time.Second
)

// Body reads a request's body of at most most bytes. Its memory is counted until
// the caller calls done. Errors are ErrTooLarge, ErrBusy, or the connection's.
func (g *Gate) Body(w http.ResponseWriter, r *http.Request, most int64) (body []byte, done func(), err error) {
	n := r.ContentLength
	if n > most {
		return nil, nil, ErrTooLarge
	}
	if n < 0 {
		n = most
	}
	p := prefixOf(r.RemoteAddr)
	switch {
	case n <= g.limits.Small:
		done = func() {}
	case g.hold(p, n):
		done = func() { g.letGo(p, n) }
	default:
		return nil, nil, ErrBusy
	}
	if body, err = readBody(w, r, n, most); err != nil {
		done()
		return nil, nil, err
	}
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		g.setWaiting(c, false)
	}
	return body, done, nil
}

// Answering notes that a request has been worked on, and its answer is to be written: a connection whose peer does not
// read it may make room for another.
func (g *Gate) Answering(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		g.setWaiting(c, true)
	}
}

// readBody reads what is said to be n bytes.
func readBody(w http.ResponseWriter, r *http.Request, n, most int64) ([]byte, error) {
	// The server's own limit of time is for the largest bodies. A writer that
	// knows no deadlines has no connection that could be slow.
	c := http.NewResponseController(w)
	if n <= SmallBody {
		_ = c.SetReadDeadline(time.Now().Add(smallBodyTime))
	}
	var b bytes.Buffer // grows as bytes come, not as they are promised
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, most))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, ErrTooLarge
	}
	if err != nil {
		return nil, err
	}
	_ = c.SetReadDeadline(time.Time{}) // else it would end the request at work
	return b.Bytes(), nil
}

func (g *Gate) hold(p netip.Prefix, n int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held+n > g.limits.Memory || g.heldBy[p]+n > g.limits.Memory/4 {
		return false
	}
	g.held += n
	g.heldBy[p] += n
	return true
}

func (g *Gate) letGo(p netip.Prefix, n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held -= n
	if g.heldBy[p] -= n; g.heldBy[p] == 0 {
		delete(g.heldBy, p)
	}
}

// Listener returns ln with the gate's bounds on connections. The server needs
// g.ConnState, too.
func (g *Gate) Listener(ln net.Listener) net.Listener { return &listener{ln, g} }
