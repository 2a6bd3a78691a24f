package verifier

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// Limits bound what the verifier takes on. Zero fields take the default.
type Limits struct {
	// Concurrent is the number of vouchers in the making; others wait a
	// while. Each asks slurmctld once. Default 8.
	Concurrent int
	// Relayed is the number of calls to the key service at once. Default 64.
	Relayed int
	// PerSecond and Burst bound each remote address. A node makes a handful
	// of requests for a job; defaults 20 and 400.
	PerSecond float64
	Burst     int
}

func (l Limits) withDefaults() Limits {
	if l.Concurrent <= 0 {
		l.Concurrent = 8
	}
	if l.Relayed <= 0 {
		l.Relayed = 64
	}
	if l.PerSecond <= 0 {
		l.PerSecond = 20
	}
	if l.Burst <= 0 {
		l.Burst = 400
	}
	return l
}

// maxRemotes bounds the addresses that are told apart.
const maxRemotes = 65536

// remotes holds one token bucket for each remote address.
type remotes struct {
	limits Limits
	mu     sync.Mutex
	by     map[netip.Addr]*rate.Limiter
}

func newRemotes(l Limits) *remotes {
	return &remotes{limits: l, by: map[netip.Addr]*rate.Limiter{}}
}

// allow reports whether remote (HOST:PORT) may make a request now. When the
// table is full everybody starts anew, which grants each one burst at most.
func (r *remotes) allow(remote string) bool {
	ap, _ := netip.ParseAddrPort(remote)
	a := ap.Addr().Unmap().WithZone("")
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.by[a]
	if l == nil {
		if len(r.by) >= maxRemotes {
			clear(r.by)
		}
		l = rate.NewLimiter(rate.Limit(r.limits.PerSecond), r.limits.Burst)
		r.by[a] = l
	}
	return l.Allow()
}
