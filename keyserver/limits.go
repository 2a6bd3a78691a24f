package keyserver

import (
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/keyapi"
)

// Limits bound what the service takes on. Zero fields take the default.
type Limits struct {
	// Body is the largest request body, bytes; default and most keyapi.MaxBody.
	Body int64
	// Concurrent is the number of requests at work at once; more get 429.
	// Default 512.
	Concurrent int
	// PerSecond and Burst bound each remote address (IPv6: each /64). A
	// whole cluster can come from one address, so the defaults are 100 and 4000.
	PerSecond float64
	Burst     int
	// Nonces is the number of attestations under way; default 65536.
	Nonces int
}

func (l Limits) withDefaults() Limits {
	if l.Body <= 0 || l.Body > keyapi.MaxBody {
		l.Body = keyapi.MaxBody
	}
	if l.Concurrent <= 0 {
		l.Concurrent = 512
	}
	if l.PerSecond <= 0 {
		l.PerSecond = 100
	}
	if l.Burst <= 0 {
		l.Burst = 4000
	}
	if l.Nonces <= 0 {
		l.Nonces = 65536
	}
	return l
}

const (
	// maxRemotes bounds the addresses that are told apart.
	maxRemotes = 16384
	// requestsPerAccount bounds an account's requests within the time that
	// their nonces are remembered.
	requestsPerAccount = 16384
)

// remotes holds one token bucket for each remote address, in two generations:
// when the young one is full, the old one is forgotten, in constant time
// whatever number of addresses knocks.
type remotes struct {
	limits     Limits
	mu         sync.Mutex
	young, old map[netip.Prefix]*rate.Limiter
}

func newRemotes(l Limits) *remotes {
	return &remotes{limits: l, young: map[netip.Prefix]*rate.Limiter{}}
}

// allow reports whether remote (HOST:PORT) may make a request now.
func (r *remotes) allow(remote string) bool { return r.bucket(prefixOf(remote)).Allow() }

func (r *remotes) bucket(p netip.Prefix) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.young[p]; l != nil {
		return l
	}
	l := r.old[p]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(r.limits.PerSecond), r.limits.Burst)
	}
	if len(r.young) >= maxRemotes/2 {
		r.old, r.young = r.young, map[netip.Prefix]*rate.Limiter{}
	}
	r.young[p] = l
	return l
}

// prefixOf maps an address to what is limited; what is no address shares one.
func prefixOf(remote string) netip.Prefix {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap(), 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// limited turns away what is too much before anything is read of it.
func (s *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.remotes.allow(r.RemoteAddr) {
			writeError(w, refuse(keyapi.CodeTooMany, "too many requests from this address"))
			return
		}
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			next.ServeHTTP(w, r)
		default:
			writeError(w, refuse(keyapi.CodeTooMany, "the key service is busy"))
		}
	})
}
