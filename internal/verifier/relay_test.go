package verifier

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// relayTo returns a verifier that relays to a fake key service.
func relayTo(t *testing.T, h http.HandlerFunc) http.Handler {
	t.Helper()
	ts := httptest.NewTLSServer(h)
	t.Cleanup(ts.Close)
	c := newSite(t).config(t, nil)
	c.ServiceURL = ts.URL + "/"
	c.ServiceCA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw}))
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v.Handler()
}

func TestRelay(t *testing.T) {
	t.Parallel()
	h := relayTo(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), b)
	})
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/service", ""}, {"POST", "/v1/nonces", "{}"}, {"POST", "/v1/release", `{"x":1}`},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if want := c.method + " " + c.path + " " + c.body; w.Code != http.StatusConflict || w.Body.String() != want {
			t.Errorf("%s: %d %q", c.path, w.Code, w.Body)
		}
		if w.Header().Get("Retry-After") != "7" || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: headers %v", c.path, w.Header())
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/v1/manifests", 404}, {"GET", "/v1/secrets", 404}, {"PUT", "/v1/release", 404}, {"POST", "/v1/release/", 404},
		{"POST", "/v1/release?a=b", 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.status)
		}
	}
}

func TestRelayFails(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"redirect":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v1/service", http.StatusFound) },
		"too large": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, keyapi.MaxBody+1)) },
		"cut":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		w := httptest.NewRecorder()
		relayTo(t, h).ServeHTTP(w, httptest.NewRequest("POST", "/v1/nonces", strings.NewReader("{}")))
		var e keyapi.Error
		if err := manifest.DecodeJSON(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusServiceUnavailable ||
			e.Code != keyapi.CodeUnavailable {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}
