package transfer

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// laned is an FS of a login node that further SFTP sessions can reach.
type laned interface {
	// lanes opens as many as make a large upload faster, and hands each to join. It returns when all
	// are open, could not be opened, or ctx has ended. hangUp ends them.
	lanes(ctx context.Context, join func(FS)) (hangUp func())
}

const (
	defaultConnections = 4
	// MaxConnections is the most that Options.Connections may be.
	MaxConnections = 8
	// connectionTime is the round trip from which on one connection more pays, sessionTime that from
	// which on each has two sessions. A session carries its window of 2 MiB in each round trip.
	connectionTime = 8 * time.Millisecond
	sessionTime    = 16 * time.Millisecond
	maxLanes       = 2 * MaxConnections
	// worthLanes is the size of a file from which on more lanes pay.
	worthLanes = 16 << 20
)

func (r remote) lanes(ctx context.Context, join func(FS)) (hangUp func()) {
	l := &laneOpener{ctx: ctx, first: r.on, join: join}
	if r.on != nil {
		l.open(r.roundTrip())
	}
	l.opening.Wait()
	return func() {
		for _, end := range l.ends {
			end()
		}
	}
}

// roundTrip is how long the login node takes to answer the simplest question. By now answers wait behind
// what is uploaded; so it is the quickest one so far that counts.
func (r remote) roundTrip() time.Duration { return time.Duration(r.w.quickest.Load()) }

// laneOpener opens lanes side by side. What cannot be opened the upload does without.
type laneOpener struct {
	ctx     context.Context
	first   *Client
	join    func(FS)
	opening sync.WaitGroup

	mu   sync.Mutex
	ends []func()
}

func (l *laneOpener) open(roundTrip time.Duration) {
	connections := min(1+int(roundTrip/connectionTime), cmp.Or(l.first.again.Connections, defaultConnections), MaxConnections)
	each := 1
	if roundTrip >= sessionTime && l.first.again.Connections != 1 {
		each = 2
	}
	if l.first.asked { // nobody is asked again
		l.sessions(l.first, connections*each-1)
		return
	}
	l.sessions(l.first, each-1)
	for range connections - 1 {
		l.opening.Go(func() {
			c, err := connect(l.ctx, l.first.life, l.first.again)
			if err != nil {
				l.sessions(l.first, 1)
				return
			}
			l.ended(func() { _ = c.Close() })
			l.sessions(c, each)
		})
	}
}

// sessions opens n sessions of a connection.
func (l *laneOpener) sessions(c *Client, n int) {
	for range n {
		l.opening.Go(func() {
			if l.ctx.Err() != nil {
				return
			}
			stop := make(chan struct{})
			s, err := c.startSFTP(l.ctx, stop)
			if err != nil {
				close(stop)
				return
			}
			l.ended(func() { close(stop); hangUp(s.s) }) // not s.c.Close, which waits for the server
			l.join(*s)
		})
	}
}

func (l *laneOpener) ended(end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = append(l.ends, end)
}
