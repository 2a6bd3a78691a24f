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
	s := c.seen[account]
	if s == nil {
		s = &seenNonces{until: map[string]time.Time{}}
		c.seen[account] = s
	}
	for len(s.order) > 0 && now.After(s.until[s.order[0]]) {
		delete(s.until, s.order[0])
		s.order = s.order[1:]
	}
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
