package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// Conditions hold why a service is not ready. The zero value has none. It is safe
// for concurrent use.
type Conditions struct {
	mu      sync.Mutex
	reasons map[string]string
}

// Set says that something (what: a few plain words) is not as it should be, for a
// reason that strangers may read; details belong into the log. "" says that it is.
func (c *Conditions) Set(what, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reason == "" {
		delete(c.reasons, what)
		return
	}
	if c.reasons == nil {
		c.reasons = map[string]string{}
	}
	c.reasons[what] = reason
}

// Has reports whether something is not as it should be.
func (c *Conditions) Has(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reasons[what] != ""
}

// Reasons returns what is not as it should be, as in "WHAT: REASON".
func (c *Conditions) Reasons() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []string{}
	for _, what := range slices.Sorted(maps.Keys(c.reasons)) {
		out = append(out, what+": "+c.reasons[what])
	}
	return out
}

// SetCertificate sets the condition of a service's certificate, at time now.
func (c *Conditions) SetCertificate(cert tls.Certificate, now time.Time) {
	c.Set("certificate", outOfDate(cert, now))
}

// outOfDate returns what is wrong with a certificate at time now.
func outOfDate(c tls.Certificate, now time.Time) string {
	if len(c.Certificate) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	switch {
	case err != nil:
		return "it cannot be parsed"
	case now.Before(leaf.NotBefore):
		return "it is not valid yet"
	case now.After(leaf.NotAfter):
		return "it expired at " + leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

// lookEvery bounds how often questions for readiness make the service look.
const lookEvery = time.Second

// Health adds GET /healthz and GET /readyz to mux, for whoever watches over the
// service. Nobody signs them, they wait for no turn, and they cost nothing that
// grows: look, which may set conditions, runs at most once a second.
//
//	/healthz  200 {"ready":true,"reasons":[]}      the process answers
//	/readyz   the same, or 503 {"ready":false,"reasons":["WHAT: REASON",...]}
func (s *Service) Health(mux *http.ServeMux, c *Conditions, look func(context.Context)) {
	var mu sync.Mutex
	var looked time.Time
	answer := func(ready bool) http.Handler {
		return s.Handler(func(w http.ResponseWriter, r *http.Request) error {
			if err := s.Admit(r); err != nil {
				return err
			}
			h := keyapi.Health{Ready: true, Reasons: []string{}}
			if ready {
				mu.Lock()
				if looked.IsZero() || time.Since(looked) >= lookEvery {
					look(context.WithoutCancel(r.Context()))
					looked = time.Now()
				}
				mu.Unlock()
				h.Reasons = c.Reasons()
			}
			status := http.StatusOK
			if h.Ready = len(h.Reasons) == 0; !h.Ready {
				status = http.StatusServiceUnavailable
			}
			keyapi.WriteJSON(w, status, h)
			return nil
		})
	}
	mux.Handle("GET /healthz", answer(false))
	mux.Handle("GET /readyz", answer(true))
}
