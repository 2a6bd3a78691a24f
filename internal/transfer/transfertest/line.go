// Package transfertest has a line to a server far away, for tests and measurements of uploads.
package transfertest

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Line forwards connections and delays every byte, in both directions, by the
// same time. It limits no rate: what waits is held here.
type Line struct {
	l    net.Listener
	to   string
	late time.Duration
	mu   sync.Mutex
	open []net.Conn // two for each connection
	wg   sync.WaitGroup
}

// Start opens a line on this machine's loopback that leads to the address to.
// Close ends it.
func Start(ctx context.Context, to string, late time.Duration) (*Line, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Line{l: l, to: to, late: late}
	r.wg.Go(r.accept)
	return r, nil
}

// Port is where the line begins, on 127.0.0.1.
func (r *Line) Port() int { return r.l.Addr().(*net.TCPAddr).Port }

// Close ends all connections and waits for them.
func (r *Line) Close() error {
	err := r.l.Close()
	r.mu.Lock()
	for _, c := range r.open {
		_ = c.Close() // mostly closed already
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}

// Connections is how many there have been.
func (r *Line) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open) / 2
}

// Break ends all connections from number first on; they are counted from 0.
func (r *Line) Break(first int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open[min(2*first, len(r.open)):] {
		_ = c.Close()
	}
}

func (r *Line) accept() {
	for {
		here, err := r.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		there, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = here.Close()
			continue
		}
		r.mu.Lock()
		r.open = append(r.open, here, there)
		r.mu.Unlock()
		r.wg.Go(func() { r.forward(here, there) })
		r.wg.Go(func() { r.forward(there, here) })
	}
}

// parcel is what was read at once, and when it is due at the other end.
type parcel struct {
	due time.Time
	b   []byte
}

// queued parcels of up to parcelSize are more than any window of SSH allows.
const (
	queued     = 4096
	parcelSize = 64 << 10
)

// forward ends one direction as its sender ends it; the other goes on.
func (r *Line) forward(from, to net.Conn) {
	queue := make(chan parcel, queued)
	r.wg.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.b); err != nil {
				_ = from.Close()
			}
		}
		_ = to.(*net.TCPConn).CloseWrite() // it may be closed already
	})
	defer close(queue)
	for {
		b := make([]byte, parcelSize)
		n, err := from.Read(b)
		if n > 0 {
			queue <- parcel{time.Now().Add(r.late), b[:n]}
		}
		if err != nil {
			return
		}
	}
}
