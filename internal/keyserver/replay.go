package keyserver

import (
	"crypto/rand"
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

// nonces are the outstanding challenges to nodes. They live in memory only:
// after a restart none is valid.
type nonces struct {
	most  int
	mu    sync.Mutex
	until map[[keyapi.NonceSize]byte]time.Time
	order [][keyapi.NonceSize]byte // oldest first; used ones stay until they expire
}

func newNonces(most int) *nonces {
	return &nonces{most: most, until: map[[keyapi.NonceSize]byte]time.Time{}}
}

// issue returns a new nonce that is good once, until expires.
func (n *nonces) issue(now time.Time) (nonce []byte, expires time.Time, err error) {
	var b [keyapi.NonceSize]byte
	rand.Read(b[:]) // never fails
	n.mu.Lock()
	defer n.mu.Unlock()
	// Those that expired or were used leave when they reach the front.
	for len(n.order) > 0 {
		until, ok := n.until[n.order[0]]
		if ok && !now.After(until) {
			break
		}
		delete(n.until, n.order[0])
		n.order = n.order[1:]
	}
	if len(n.until) >= n.most || len(n.order) >= 2*n.most {
		return nil, time.Time{}, service.Refuse(keyapi.CodeTooMany, "too many attestations are under way")
	}
	expires = now.Add(keyapi.NonceTTL)
	n.until[b] = expires
	n.order = append(n.order, b)
	return b[:], expires, nil
}

// use consumes a nonce.
func (n *nonces) use(nonce []byte, now time.Time) error {
	if len(nonce) != keyapi.NonceSize {
		return service.Refuse(keyapi.CodeAttestation, "nonce of %d bytes", len(nonce))
	}
	k := [keyapi.NonceSize]byte(nonce)
	n.mu.Lock()
	until, ok := n.until[k]
	delete(n.until, k)
	n.mu.Unlock()
	if !ok || now.After(until) {
		// The service may have been started again, or have been slow.
		return service.Refuse(keyapi.CodeAttestation, "the nonce is unknown, used up or older than %s", keyapi.NonceTTL).
			WithHint("ask for a new one and attest again").AsRetryable()
	}
	return nil
}
