package keyserver

import (
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/service"
)

// Limits bound what the service takes on. Zero fields take the default.
type Limits struct {
	// Body is the largest request body, bytes; default and most keyapi.MaxBody.
	Body int64
	// Connections are open at once, half of them from one address at most.
	// Default 4096.
	Connections int
	// Memory bounds the request bodies that are held at once, in bytes; one
	// address has a quarter of it. Default 64 MiB.
	Memory int64
	// Concurrent is the number of requests at work at once; eight times as
	// many may wait for their turn, which addresses take one after the other.
	// More get 429. Default 256.
	Concurrent int
	// PerSecond and Burst bound each remote address (IPv6: each /64). A
	// whole cluster can come from one address, so the defaults are 100 and 4000.
	PerSecond float64
	Burst     int
	// Secrets, Manifests, Tokens and Deleted bound what the store holds of one account.
	// Volumes stay until their owner deletes them, jobs and tokens until a while
	// after they expired, tombstones of deleted volumes for two years.
	// Defaults 50,000, 50,000, 262,144 and 200,000.
	Secrets, Manifests, Tokens, Deleted int
	// Releases bounds the releases of keys to an account's jobs, one for each volume,
	// node and start, that are recorded: for a month. JobBytes bounds what the account's
	// registered jobs take in the store, in bytes. Defaults 500,000 and 256 MiB.
	Releases, JobBytes int
	// Segment is the size, in bytes, at which a segment of the audit log is closed;
	// default 64 MiB. All that a segment tells of records is read at the start.
	Segment int64
}

func (l Limits) withDefaults() Limits {
	if l.Body <= 0 || l.Body > keyapi.MaxBody {
		l.Body = keyapi.MaxBody
	}
	service.Default(&l.Connections, 4096)
	service.Default(&l.Memory, 64<<20)
	service.Default(&l.Concurrent, 256)
	service.Default(&l.PerSecond, 100)
	service.Default(&l.Burst, 4000)
	service.Default(&l.Secrets, 50_000)
	service.Default(&l.Manifests, 50_000)
	service.Default(&l.Tokens, 1<<18)
	service.Default(&l.Deleted, 200_000)
	service.Default(&l.Releases, 500_000)
	service.Default(&l.JobBytes, 256<<20)
	service.Default(&l.Segment, 64<<20)
	return l
}

const (
	// requestsPerAccount bounds an account's requests within the time that
	// their nonces are remembered.
	requestsPerAccount = 16384
	// turnTime is how long a request waits for its turn at most.
	turnTime = 15 * time.Second
)

// unauthenticatedLog decides which refusals of callers who showed neither an
// enrolled key nor valid evidence are written down: anybody may cause them, and
// must not fill the disk under the audit log.
type unauthenticatedLog struct {
	each    *gate.AddrLimiter
	all     *rate.Limiter
	omitted atomic.Int64 // refusals since the last line that says so
}

func newUnauthenticatedLog() *unauthenticatedLog {
	return &unauthenticatedLog{each: gate.NewAddrLimiter(1, 300), all: rate.NewLimiter(20, 5000)}
}

// note reports whether a refusal of remote's is written down, and how many
// before it were not.
func (u *unauthenticatedLog) note(remote string) (omitted int64, ok bool) {
	if !u.each.Allow(remote) || !u.all.Allow() {
		u.omitted.Add(1)
		return 0, false
	}
	return u.omitted.Swap(0), true
}
