// Package retry does again what failed for a reason that may pass: with waits
// that grow, of which a part is random, so that a thousand nodes that lost the
// same service do not come back in step.
//
// The wait after try n, counted from 0, is
//
//	max(asked, d/2) + random [0, d)    d = min(First * 2^n, Most)
//
// which is d on average. asked is what the other side asked for (After).
package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// Policy says how often and when something is tried again. The zero value tries
// without end, from a wait of DefaultFirst up to one of DefaultMost.
type Policy struct {
	First time.Duration // the mean wait after the first failure; doubles each time
	Most  time.Duration // the longest mean wait
	Tries int           // the first included; 0 means no limit but the context's
	// Worth reports whether a try after err may do better; nil stands for
	// everything but Final errors, which Do never repeats.
	Worth func(err error) bool
	// Waiting is told before each wait; may be nil.
	Waiting func(wait time.Duration, err error)

	Sleep func(ctx context.Context, d time.Duration) error // for tests; nil waits
	Rand  func(n time.Duration) time.Duration              // for tests; in [0, n), nil is random
}

// Defaults of Policy.
const (
	DefaultFirst = time.Second
	DefaultMost  = 30 * time.Second
)

// Do calls op until it succeeds, and returns the error of the last try when
// that is final or not worth another, tries are used up, or ctx ends; in the
// last case joined with ctx.Err().
func (p Policy) Do(ctx context.Context, op func() error) error {
	for b := p.Begin(); ; {
		err := op()
		if err == nil || Final(err) || (p.Worth != nil && !p.Worth(err)) {
			return err
		}
		if err := b.Pause(ctx, err); err != nil {
			return err
		}
	}
}

// Begin returns the state of tries of which none was made yet, for callers with
// a loop of their own.
func (p Policy) Begin() *Backoff {
	if p.First <= 0 {
		p.First = DefaultFirst
	}
	if p.Most <= 0 {
		p.Most = DefaultMost
	}
	if p.Sleep == nil {
		p.Sleep = sleep
	}
	if p.Rand == nil {
		p.Rand = func(n time.Duration) time.Duration { return rand.N(n) }
	}
	return &Backoff{p: p}
}

// Backoff counts tries. It is for one goroutine.
type Backoff struct {
	p      Policy
	failed int
}

// Reset counts anew: something went well meanwhile.
func (b *Backoff) Reset() { b.failed = 0 }

// Pause waits after a try that failed with err. It returns err if tries are used
// up, and err joined with ctx.Err() when ctx ends first.
func (b *Backoff) Pause(ctx context.Context, err error) error {
	b.failed++
	if b.p.Tries > 0 && b.failed >= b.p.Tries {
		return err
	}
	wait := b.wait(b.failed-1, asked(err))
	if b.p.Waiting != nil {
		b.p.Waiting(wait, err)
	}
	if serr := b.p.Sleep(ctx, wait); serr != nil {
		return errors.Join(err, serr)
	}
	return nil
}

func (b *Backoff) wait(try int, asked time.Duration) time.Duration {
	d := b.p.First
	for range try {
		if d >= b.p.Most {
			break
		}
		d *= 2
	}
	d = min(d, b.p.Most)
	return max(asked, d/2) + b.p.Rand(d)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// after is an error whose cause asked for a wait (Retry-After).
type after struct {
	error
	wait time.Duration
}

func (a after) Unwrap() error { return a.error }

// After returns err, with the wait that the other side asked for; nil for nil.
func After(err error, wait time.Duration) error {
	if err == nil || wait <= 0 {
		return err
	}
	return after{err, wait}
}

func asked(err error) time.Duration {
	if a, ok := errors.AsType[after](err); ok {
		return a.wait
	}
	return 0
}

// Final reports whether err will be the same however often one tries: a
// certificate that is wrong or not vouched for, a host name that nobody knows,
// or plain HTTP where TLS was expected.
func Final(err error) bool {
	var (
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		return true
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	}
	return false
}
