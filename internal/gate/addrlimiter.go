package gate

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// maxAddrs bounds the addresses that are told apart.
const maxAddrs = 16384

// AddrLimiter bounds the requests of each address by a token bucket of its own.
// The buckets are kept in two generations: when the young one is full, the old
// one is dropped, in constant time however many addresses there are.
type AddrLimiter struct {
	perSecond  rate.Limit
	burst      int
	mu         sync.Mutex
	young, old map[netip.Prefix]*rate.Limiter
}

// NewAddrLimiter returns a limiter whose buckets hold burst tokens and are
// refilled at perSecond.
func NewAddrLimiter(perSecond float64, burst int) *AddrLimiter {
	return &AddrLimiter{perSecond: rate.Limit(perSecond), burst: burst, young: map[netip.Prefix]*rate.Limiter{}}
}

// Allow reports whether a token was left in the bucket of remote (HOST:PORT or
// HOST), and takes it.
func (l *AddrLimiter) Allow(remote string) bool { return l.bucket(prefixOf(remote)).Allow() }

// bucket returns the bucket of p, making it if there is none.
func (l *AddrLimiter) bucket(p netip.Prefix) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.young[p]; b != nil {
		return b
	}
	b := l.old[p]
	if b == nil {
		b = rate.NewLimiter(l.perSecond, l.burst)
	}
	if len(l.young) >= maxAddrs/2 {
		l.old, l.young = l.young, map[netip.Prefix]*rate.Limiter{}
	}
	l.young[p] = b
	return b
}

// prefixOf returns the prefix that an address is limited by; whatever is no
// address shares the zero prefix.
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
