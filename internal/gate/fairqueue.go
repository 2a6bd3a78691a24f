package gate

import (
	"context"
	"net/netip"
	"sync"
)

// FairQueue admits a number of requests at once and queues the others. The
// addresses are served round-robin, so that one which sends a thousand requests
// delays those of another by one, not by a thousand.
type FairQueue struct {
	most    int // may wait; one address: a quarter
	mu      sync.Mutex
	free    int
	waiting int
	queues  map[netip.Prefix][]chan struct{} // closed when admitted
	next    []netip.Prefix                   // addresses with a queue, in the order of their turns
}

// NewFairQueue returns a queue that admits atWork requests at once and keeps at
// most waiting queued.
func NewFairQueue(atWork, waiting int) *FairQueue {
	return &FairQueue{most: waiting, free: atWork, queues: map[netip.Prefix][]chan struct{}{}}
}

// Enter waits until a request of remote (HOST:PORT) is admitted, at most until
// ctx ends. The caller calls leave when the request is done. The error is
// ErrBusy: the queue is full, or ctx ended.
func (f *FairQueue) Enter(ctx context.Context, remote string) (leave func(), err error) {
	p := prefixOf(remote)
	f.mu.Lock()
	if f.free > 0 {
		f.free--
		f.mu.Unlock()
		return f.leave, nil
	}
	if f.waiting >= f.most || len(f.queues[p]) >= max(1, f.most/4) {
		f.mu.Unlock()
		return nil, ErrBusy
	}
	turn := make(chan struct{})
	if len(f.queues[p]) == 0 {
		f.next = append(f.next, p)
	}
	f.queues[p] = append(f.queues[p], turn)
	f.waiting++
	f.mu.Unlock()
	select {
	case <-turn:
		return f.leave, nil
	case <-ctx.Done():
		f.giveUp(p, turn)
		return nil, ErrBusy
	}
}

// leave admits the next request.
func (f *FairQueue) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		f.free++
		return
	}
	p := f.next[0]
	f.next = f.next[1:]
	q := f.queues[p]
	close(q[0])
	f.waiting--
	if len(q) == 1 {
		delete(f.queues, p)
		return
	}
	f.queues[p] = q[1:]
	f.next = append(f.next, p)
}

// giveUp removes turn from its queue, or passes it on if it came meanwhile.
func (f *FairQueue) giveUp(p netip.Prefix, turn chan struct{}) {
	f.mu.Lock()
	q := f.queues[p]
	for i, c := range q {
		if c != turn {
			continue
		}
		f.waiting--
		f.queues[p] = append(q[:i:i], q[i+1:]...)
		if len(q) == 1 {
			delete(f.queues, p)
			for j, n := range f.next {
				if n == p {
					f.next = append(f.next[:j:j], f.next[j+1:]...)
					break
				}
			}
		}
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.leave()
}
