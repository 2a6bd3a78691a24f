package verifier

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v, err := New(s.config(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(keyapi.VouchRequest{Service: testService, Claim: s.claim, Credential: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"no JSON":             {"POST", "/v1/vouch", "hello", 400},
		"empty":               {"POST", "/v1/vouch", "", 400},
		"unknown field":       {"POST", "/v1/vouch", `{"colour":1}`, 400},
		"trailing text":       {"POST", "/v1/vouch", string(good) + "x", 400},
		"field twice":         {"POST", "/v1/vouch", strings.Replace(string(good), `"service"`, `"service":"a","service"`, 1), 400},
		"no service":          {"POST", "/v1/vouch", strings.Replace(string(good), testService, "", 1), 400},
		"too large":           {"POST", "/v1/vouch", string(good) + strings.Repeat(" ", maxRequest), 400},
		"GET":                 {"GET", "/v1/vouch", "", 404},
		"unknown path":        {"POST", "/v1/secrets", "", 404},
		"no relay configured": {"POST", "/v1/nonces", "{}", 404},
	} {
		w := httptest.NewRecorder()
		v.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		var e keyapi.Error
		if err := manifest.DecodeJSON(w.Body.Bytes(), &e); err != nil || w.Code != c.status || service.StatusOf(e.Code) != c.status {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, c.status)
		}
	}
}

// TestReady asks a verifier with an httptest certificate, before and after its end.
func TestReady(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ts := httptest.NewTLSServer(nil)
	defer ts.Close()
	for status, at := range map[int]time.Time{200: ts.Certificate().NotBefore.Add(time.Hour), 503: ts.Certificate().NotAfter.Add(time.Hour)} {
		c := s.config(t, nil)
		c.Now = func() time.Time { return at }
		v, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		v.cert = ts.TLS.Certificates[0]
		for path, want := range map[string]int{"/readyz": status, "/healthz": 200} {
			w := httptest.NewRecorder()
			v.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != want {
				t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.config(t, nil)
	c.Limits = Limits{PerSecond: 1e-9, Burst: 2}
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	h := v.Handler()
	from := func(addr string) int {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return w.Code
	}
	got := []int{from("10.0.0.1:1"), from("10.0.0.1:2"), from("10.0.0.1:3"), from("[::ffff:10.0.0.1]:4"), from("10.0.0.2:1")}
	if want := []int{404, 404, 429, 429, 404}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestInTurn fills the only slot; the next request gives up with its client.
func TestInTurn(t *testing.T) {
	t.Parallel()
	started, finish := make(chan struct{}), make(chan struct{})
	v, err := New(newSite(t).config(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	h := v.inTurn(1, func(http.ResponseWriter, *http.Request, []byte) error { close(started); <-finish; return nil })
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
	}()
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil).WithContext(ctx))
	if w.Code != http.StatusTooManyRequests {
		t.Errorf("got %d while the slot was taken", w.Code)
	}
	close(finish)
	<-done
}
