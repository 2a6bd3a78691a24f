package keyserver

import (
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/service"
)

// replayCache remembers the nonces of signed requests for as long as their
// time would be accepted. Each account has its own bound, so that none can
// fill the cache for others.
type replayCache struct {
	perAccount int
	mu         sync.Mutex
	seen       map[string]*seenNonces // by account id
	swept      time.Time              // when accounts that have nothing to remember were last forgotten
}

type seenNonces struct {
	until map[string]time.Time
	order []string // oldest first
}

func newReplayCache(perAccount int) *replayCache {
	return &replayCache{perAccount: perAccount, seen: map[string]*seenNonces{}}
}

// use records a nonce, and refuses one that was used.
func (c *replayCache) use(account, nonce string, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep(now)
	s := c.seen[account]
	if s == nil {
		s = &seenNonces{until: map[string]time.Time{}}
		c.seen[account] = s
	}
	s.forget(now)
	if _, ok := s.until[nonce]; ok {
		return service.Refuse(keyapi.CodeUnauthorised, "this request was made before: its nonce is used up")
	}
	if len(s.order) >= c.perAccount {
		return service.Refuse(keyapi.CodeTooMany, "too many requests of one account within %s", 2*keyapi.MaxSkew)
	}
	// A time may lie MaxSkew ahead, and is accepted MaxSkew after that.
	s.until[nonce] = now.Add(2*keyapi.MaxSkew + time.Second)
	s.order = append(s.order, nonce)
	return nil
}

// forget drops the nonces whose time is over.
func (s *seenNonces) forget(now time.Time) {
	for len(s.order) > 0 && now.After(s.until[s.order[0]]) {
		delete(s.until, s.order[0])
		s.order = s.order[1:]
	}
}

// sweep forgets accounts that have made no request for a while. The caller holds
// the lock.
func (c *replayCache) sweep(now time.Time) {
	if now.Sub(c.swept).Abs() < 4*keyapi.MaxSkew {
		return
	}
	c.swept = now
	for account, s := range c.seen {
		if s.forget(now); len(s.order) == 0 {
			delete(c.seen, account)
		}
	}
}
