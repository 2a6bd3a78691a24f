package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// relay is the line between a laptop and the login node's sshd: it passes bytes on, and can be made to
// stand still or to break. What goes through is SSH from end to end, host keys included.
type relay struct {
	at   place
	addr *net.TCPAddr

	mu            sync.Mutex
	change        *sync.Cond
	limit, passed int64 // bytes to login: those that may pass, and those that did
	held          bool  // bytes wait at the limit
	conns         []*net.TCPConn
}

// newRelay starts a relay on a host, which stands still after so many bytes.
func newRelay(t *testing.T, host string, limit int64) *relay {
	t.Helper()
	r := &relay{at: place{host, "root"}, limit: limit}
	r.change = sync.NewCond(&r.mu)
	var l net.Listener
	err := r.at.inside(func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(addresses[host], "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().(*net.TCPAddr)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.serve(t, c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.cut()
		all.Wait()
	})
	return r
}

func (r *relay) serve(t *testing.T, c *net.TCPConn) {
	defer c.Close()
	s, err := r.at.dial(t.Context(), "login:22")
	if err != nil {
		return // the client sees a connection that ends
	}
	defer s.Close()
	r.mu.Lock()
	r.conns = append(r.conns, c, s.(*net.TCPConn))
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(c, s)
		c.Close()
	}()
	io.Copy(limited{s, r}, c)
	s.Close()
	<-done
}

// limited is the way to login.
type limited struct {
	io.Writer
	r *relay
}

func (l limited) Write(p []byte) (int, error) {
	l.r.mu.Lock()
	for l.r.passed+int64(len(p)) > l.r.limit {
		l.r.held = true
		l.r.change.Wait()
	}
	l.r.held = false
	l.r.passed += int64(len(p))
	l.r.mu.Unlock()
	return l.Writer.Write(p)
}

// isHeld reports whether the limit is reached.
func (r *relay) isHeld() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// bytes have passed to login in all.
func (r *relay) bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passed
}

// goOn lets everything pass.
func (r *relay) goOn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = math.MaxInt64
	r.change.Broadcast()
}

// cut resets all connections; new ones pass.
func (r *relay) cut() {
	r.mu.Lock()
	for _, c := range r.conns {
		c.SetLinger(0)
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.goOn()
}

// conf writes a client.conf of alice's, made from another, that goes through the relay. The host key is
// still login's.
func (r *relay) conf(t *testing.T, from, name string, lines ...string) string {
	t.Helper()
	write(t, "laptop", "alice", "relay/"+name+".ssh",
		fmt.Sprintf("Host login\nHostName %s\nPort %d\nHostKeyAlias login\n%s\n", r.addr.IP, r.addr.Port, strings.Join(lines, "\n")))
	path := "relay/" + name + ".conf"
	write(t, "laptop", "alice", path, must(t, "laptop", "alice", "sed", "s,^username,ssh-config = ~/relay/"+name+".ssh\\n&,", from)+"\n")
	return path
}

// waitHeld waits until bytes wait at the limit.
func (r *relay) waitHeld(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, "the upload has come so far", r.isHeld)
}
