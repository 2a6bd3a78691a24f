package gate

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// maxRemotes bounds the addresses that are told apart.
const maxRemotes = 16384

// Remotes holds one token bucket for each address, in two generations: when
// the young one is full, the old one is forgotten, in constant time whatever
// number of addresses knocks.
type Remotes struct {
	perSecond  rate.Limit
	burst      int
	mu         sync.Mutex
	young, old map[netip.Prefix]*rate.Limiter
}

// NewRemotes makes buckets that hold burst and are filled at perSecond.
func NewRemotes(perSecond float64, burst int) *Remotes {
	return &Remotes{perSecond: rate.Limit(perSecond), burst: burst, young: map[netip.Prefix]*rate.Limiter{}}
}

// Allow takes one from the bucket of remote (HOST:PORT or HOST), if there is one.
func (r *Remotes) Allow(remote string) bool { return r.bucket(prefixOf(remote)).Allow() }

func (r *Remotes) bucket(p netip.Prefix) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.young[p]; l != nil {
		return l
	}
	l := r.old[p]
	if l == nil {
		l = rate.NewLimiter(r.perSecond, r.burst)
	}
	if len(r.young) >= maxRemotes/2 {
		r.old, r.young = r.young, map[netip.Prefix]*rate.Limiter{}
	}
	r.young[p] = l
	return l
}

// prefixOf maps an address to what is limited; what is no address shares one.
func prefixOf(remote string) netip.Prefix {
	ip, err := netip.ParseAddr(remote)
	if ap, aerr := netip.ParseAddrPort(remote); aerr == nil {
		ip, err = ap.Addr(), nil
	}
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
