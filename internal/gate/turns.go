package gate

import (
	"context"
	"net/netip"
	"sync"
)

// Turns lets a number of requests work at once and the others wait. Addresses
// take turns, so that one which sends a thousand requests delays those of
// another by one, not by a thousand.
type Turns struct {
	most    int // may wait; one address: a quarter
	mu      sync.Mutex
	free    int
	waiting int
	queues  map[netip.Prefix][]chan struct{}
	next    []netip.Prefix // addresses with a queue, in the order of their turns
}

// NewTurns has atWork at once, and waiting wait.
func NewTurns(atWork, waiting int) *Turns {
	return &Turns{most: waiting, free: atWork, queues: map[netip.Prefix][]chan struct{}{}}
}

// Enter waits for remote's turn, until ctx ends. Leave, which it returns, has
// to be called after the work. Its error is ErrBusy.
func (t *Turns) Enter(ctx context.Context, remote string) (leave func(), err error) {
	p := prefixOf(remote)
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return t.leave, nil
	}
	if t.waiting >= t.most || len(t.queues[p]) >= max(1, t.most/4) {
		t.mu.Unlock()
		return nil, ErrBusy
	}
	turn := make(chan struct{})
	if len(t.queues[p]) == 0 {
		t.next = append(t.next, p)
	}
	t.queues[p] = append(t.queues[p], turn)
	t.waiting++
	t.mu.Unlock()
	select {
	case <-turn:
		return t.leave, nil
	case <-ctx.Done():
		t.giveUp(p, turn)
		return nil, ErrBusy
	}
}

// leave hands the turn on.
func (t *Turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.next) == 0 {
		t.free++
		return
	}
	p := t.next[0]
	t.next = t.next[1:]
	q := t.queues[p]
	close(q[0])
	t.waiting--
	if len(q) == 1 {
		delete(t.queues, p)
		return
	}
	t.queues[p] = q[1:]
	t.next = append(t.next, p)
}

// giveUp removes turn from its queue, or hands it on if it came meanwhile.
func (t *Turns) giveUp(p netip.Prefix, turn chan struct{}) {
	t.mu.Lock()
	q := t.queues[p]
	for i, c := range q {
		if c != turn {
			continue
		}
		t.waiting--
		t.queues[p] = append(q[:i:i], q[i+1:]...)
		if len(q) == 1 {
			delete(t.queues, p)
			for j, n := range t.next {
				if n == p {
					t.next = append(t.next[:j:j], t.next[j+1:]...)
					break
				}
			}
		}
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	t.leave()
}
