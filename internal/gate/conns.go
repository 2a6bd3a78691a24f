package gate

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// connections are those that are open. The ones that wait, for a handshake to
// go on or a request to come as a whole, stand in a list, the longest first.
type connections struct {
	most    int
	mu      sync.Mutex
	open    map[*conn]bool
	from    map[netip.Prefix]int
	waiting *list.List // of *conn
}

func newConnections(most int) connections {
	return connections{most: most, open: map[*conn]bool{}, from: map[netip.Prefix]int{}, waiting: list.New()}
}

// add counts a connection, if need be in place of one that waits, which it
// returns; ok is false if there is no room.
func (c *connections) add(n *conn) (instead *conn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	share := c.from[n.prefix] >= max(1, c.most/2)
	if share || len(c.open) >= c.most {
		if instead = c.longest(n.prefix, share); instead == nil {
			return nil, false
		}
		c.forget(instead)
	}
	c.open[n] = true
	c.from[n.prefix]++
	n.place = c.waiting.PushBack(n)
	return instead, true
}

// longest returns the connection that has waited for longest, of one address, or of
// that which has most, so that no address loses its only one to another's many; nil
// if none waits. The caller holds the lock.
func (c *connections) longest(p netip.Prefix, ofOne bool) (found *conn) {
	for e := c.waiting.Front(); e != nil; e = e.Next() {
		n, ok := e.Value.(*conn)
		switch {
		case !ok:
		case ofOne && n.prefix == p:
			return n
		case !ofOne && (found == nil || c.from[n.prefix] > c.from[found.prefix]):
			found = n
		}
	}
	return found
}

// forget takes n out of the counts. The caller holds the lock.
func (c *connections) forget(n *conn) {
	if !c.open[n] {
		return
	}
	delete(c.open, n)
	if c.from[n.prefix]--; c.from[n.prefix] == 0 {
		delete(c.from, n.prefix)
	}
	c.rest(n, false)
}

// rest notes whether n waits. The caller holds the lock.
func (c *connections) rest(n *conn, waits bool) {
	if n.place != nil {
		c.waiting.Remove(n.place)
		n.place = nil
	}
	if waits {
		n.place = c.waiting.PushBack(n)
	}
}

// conn is an open connection.
type conn struct {
	net.Conn
	gate   *Gate
	prefix netip.Prefix
	place  *list.Element // among those that wait; nil while at work
}

// Close closes the connection and frees its place.
func (c *conn) Close() error {
	o := &c.gate.open
	o.mu.Lock()
	o.forget(c)
	o.mu.Unlock()
	return c.Conn.Close()
}

// ConnState is for http.Server.ConnState: it notes that a connection waits for its
// next request. It goes on waiting until Body has read that one.
func (g *Gate) ConnState(c net.Conn, s http.ConnState) {
	if s == http.StateIdle {
		g.setWaiting(connOf(c), true)
	}
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext: it lets Body know a request's connection.
func (g *Gate) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(c))
}

// connOf returns the gate's own connection, nil if it is another's.
func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	n, _ := c.(*conn)
	return n
}

func (g *Gate) setWaiting(n *conn, waits bool) {
	o := &g.open
	o.mu.Lock()
	defer o.mu.Unlock()
	if n != nil && o.open[n] {
		o.rest(n, waits)
	}
}

type listener struct {
	net.Listener
	gate *Gate
}

// Accept returns the next connection that there is room for. Others are closed
// before anything is spent on them.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote := c.RemoteAddr().String()
		n := &conn{Conn: c, gate: l.gate, prefix: prefixOf(remote)}
		if l.gate.connections.Allow(remote) {
			instead, ok := l.gate.open.add(n)
			if instead != nil {
				instead.Conn.Close() // it waited for longest
			}
			if ok {
				return n, nil
			}
		}
		c.Close()
	}
}
