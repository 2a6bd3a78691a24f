package verifier

import "github.com/sealbatch/sealbatch/internal/service"

// Limits bound what the verifier takes on. Zero fields take the default.
type Limits struct {
	// Concurrent is the number of vouchers in the making; others wait a
	// while, and addresses take turns. Each asks slurmctld once. Default 8.
	Concurrent int
	// Relayed is the number of calls to the key service at once. Default 64.
	Relayed int
	// Connections are open at once, half of them from one address at most.
	// Default 4096.
	Connections int
	// Memory bounds the request bodies that are held at once, in bytes; one
	// address has a quarter of it. Default 32 MiB.
	Memory int64
	// PerSecond and Burst bound each remote address. A node makes a handful
	// of requests for a job; defaults 20 and 400.
	PerSecond float64
	Burst     int
}

func (l Limits) withDefaults() Limits {
	service.Default(&l.Concurrent, 8)
	service.Default(&l.Relayed, 64)
	service.Default(&l.Connections, 4096)
	service.Default(&l.Memory, 32<<20)
	service.Default(&l.PerSecond, 20)
	service.Default(&l.Burst, 400)
	return l
}

// waiting bounds how many requests wait for a turn, for each at work.
const waiting = 64
