package doctor

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence/builtin"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// fakeKeys is a key service; err is the answer to who it is.
type fakeKeys struct {
	answer  keyapi.Service
	err     error
	account error
}

func (f fakeKeys) Service(context.Context) (keyapi.Service, error) { return f.answer, f.err }

func (f fakeKeys) Enrolled(context.Context) error { return f.account }

// mark returns how a finding counts, and what was looked at.
func mark(f Finding) string {
	switch {
	case f.Bad:
		return "NO " + f.What
	case f.Warn:
		return "-- " + f.What
	}
	return "ok " + f.What
}

// quietServer is a TLS server that does not log handshakes that are meant to fail.
func quietServer() *httptest.Server {
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return s
}

func TestService(t *testing.T) {
	t.Parallel()
	server := quietServer()
	t.Cleanup(server.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	now := func(clusters ...keyapi.Cluster) keyapi.Service {
		return keyapi.Service{ID: "id", Time: time.Now(), Clusters: clusters}
	}
	good := keyapi.Cluster{Name: "box", VerifierURL: server.URL, VerifierCA: ca, Tier: manifest.TierB2}
	away := keyapi.Cluster{Name: "box", VerifierURL: "https://127.0.0.1:1", VerifierCA: ca}
	slow := now(good)
	slow.Time = time.Now().Add(-2 * clockLimit)
	unavailable := fmt.Errorf("asked: %w", keyclient.ErrUnavailable)
	for name, c := range map[string]struct {
		keys       fakeKeys
		home, node []string
	}{
		"well": {fakeKeys{answer: now(good)},
			[]string{"ok key service", "ok key service's certificate", "ok clock", "ok account", "ok verifier of cluster box"},
			[]string{"ok key service", "ok clock", "ok verifier of cluster box"}},
		"verifier away": {fakeKeys{answer: now(away)},
			[]string{"ok key service", "ok key service's certificate", "ok clock", "ok account", "ok verifier of cluster box"},
			[]string{"ok key service", "ok clock", "NO verifier of cluster box"}},
		"no cluster": {fakeKeys{answer: now()},
			[]string{"ok key service", "ok key service's certificate", "ok clock", "ok account", "-- verifier"},
			[]string{"ok key service", "ok clock", "-- verifier"}},
		"clock and account": {fakeKeys{answer: slow, account: errors.New("who are you")},
			[]string{"ok key service", "ok key service's certificate", "NO clock", "NO account", "ok verifier of cluster box"},
			[]string{"ok key service", "NO clock", "ok verifier of cluster box"}},
		"unavailable": {fakeKeys{err: unavailable}, []string{"NO key service"}, []string{"-- key service"}},
		"another":     {fakeKeys{err: errors.New("another id")}, []string{"NO key service"}, []string{"NO key service"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var home, node []string
			s := Service{URL: server.URL, CA: []byte(ca), Keys: c.keys, Evidence: builtin.Types}
			s.Report = func(f Finding) { home = append(home, mark(f)) }
			s.check(t.Context())
			s.Report = func(f Finding) { node = append(node, mark(f)) }
			s.CheckFromNode(t.Context())
			if !slices.Equal(home, c.home) || !slices.Equal(node, c.node) {
				t.Errorf("at home %q, want %q\non a node %q, want %q", home, c.home, node, c.node)
			}
		})
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	server := quietServer()
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	ends, err := certificateEnd(t.Context(), server.URL, ca)
	if err != nil || !ends.Equal(server.Certificate().NotAfter) {
		t.Errorf("%v, %v", ends, err)
	}
	for _, c := range []struct {
		url string
		ca  []byte
	}{{server.URL, nil}, {"https://127.0.0.1:1", ca}, {":", ca}} {
		if _, err := certificateEnd(t.Context(), c.url, c.ca); err == nil {
			t.Errorf("%s by %.10q passed", c.url, c.ca)
		}
	}
	for left, want := range map[time.Duration]string{2 * soon: "ok x", soon / 2: "-- x"} {
		if got := mark(certificateFinding("x", time.Now().Add(left))); got != want {
			t.Errorf("%v before its end: %s, want %s", left, got, want)
		}
	}
}

func TestFindingsHaveHints(t *testing.T) {
	t.Parallel()
	f := Failed("gocryptfs", checkGocryptfs("/nowhere/gocryptfs", ": it travels"))
	if !f.Bad || !strings.Contains(f.Detail, "/nowhere/gocryptfs") || !strings.HasSuffix(f.Fix, "make build does: it travels") {
		t.Errorf("%+v", f)
	}
}
