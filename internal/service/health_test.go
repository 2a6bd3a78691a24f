package service

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/gate"
)

// TestCertificateCondition shows an httptest certificate at times of its life.
func TestCertificateCondition(t *testing.T) {
	t.Parallel()
	ts := httptest.NewTLSServer(nil)
	defer ts.Close()
	cert := ts.TLS.Certificates[0]
	leaf := ts.Certificate()
	for want, at := range map[string]time.Time{
		"it is not valid yet": leaf.NotBefore.Add(-time.Second),
		"":                    leaf.NotBefore.Add(time.Second),
		"it expired at ":      leaf.NotAfter.Add(time.Second),
	} {
		var c Conditions
		c.SetCertificate(cert, at)
		if got := strings.Join(c.Reasons(), ""); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("at %s: %q, want %q", at, got, want)
		}
	}
}

// TestHealth asks a service that has something wrong with it, and one that is asked
// too often.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := New(Config{Name: "test service", LogHint: "see its log", Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Limits: gate.Limits{Connections: 4, PerSecond: 1e-9, Burst: 6, Memory: 40}})
	var c Conditions
	looks := 0
	mux := http.NewServeMux()
	s.Health(mux, &c, func(context.Context) { looks++ })
	ask := func(path string, status int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != status || body != "" && w.Body.String() != body+"\n" {
			t.Errorf("%s: %d %s, want %d %s", path, w.Code, w.Body, status, body)
		}
	}
	const ready = `{"ready":true,"reasons":[]}`
	ask("/readyz", 200, ready)
	c.Set("disk", "full")
	c.Set("accounts", "a line is wrong")
	ask("/readyz", 503, `{"ready":false,"reasons":["accounts: a line is wrong","disk: full"]}`)
	ask("/healthz", 200, ready)
	c.Set("disk", "")
	if !c.Has("accounts") || c.Has("disk") {
		t.Error("a condition is not what was set")
	}
	ask("/readyz", 503, `{"ready":false,"reasons":["accounts: a line is wrong"]}`)
	c.Set("accounts", "")
	c.Set("nothing", "")
	ask("/readyz", 200, ready)
	if looks != 1 {
		t.Errorf("looked %d times within a second", looks)
	}
	ask("/healthz", 200, ready)
	ask("/healthz", 429, "") // its address made six
}
