package keyclient_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
)

// outcomes counts what the audit log has of releases.
func (w *world) outcomes(t *testing.T) map[string]int {
	t.Helper()
	b, err := os.ReadFile(w.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(b)) {
		for _, o := range []string{"released", "repeated", "refused"} {
			if strings.Contains(line, `"event":"release","outcome":"`+o+`"`) {
				out[o]++
			}
		}
	}
	return out
}

// TestLostAnswers has a relay lose what it was given, on the way there or on
// the way back: the node gets its keys, and they count once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lose     func(h http.Handler, rw http.ResponseWriter, r *http.Request)
		repeated int
	}{
		"on the way back": {func(h http.Handler, _ http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}, 3},
		"on the way there": {func(http.Handler, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0},
		"by a relay that says so": {func(h http.Handler, rw http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(httptest.NewRecorder(), r)
			keyapi.WriteJSON(rw, 503, keyapi.Error{Code: keyapi.CodeUnavailable, Message: "the key service does not answer"})
		}, 3},
		"in the middle": {func(h http.Handler, rw http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			rw.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			rw.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var left atomic.Int32
			left.Store(3)
			s := w.front(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/v1/release") && left.Add(-1) >= 0 {
						tc.lose(h, rw, r)
						return
					}
					h.ServeHTTP(rw, r)
				})
			})
			got, err := newClient(t, keyclient.Options{URL: s.URL + "/relay", CA: caOf(s), ServiceID: w.ID}).Release(t.Context(), w.req)
			if err != nil || string(got.Keys[w.vol.ID].Key) != string(w.vol.Key) {
				t.Fatalf("%d keys, %v", len(got.Keys), err)
			}
			i, err := w.Client(t, w.alice).GetSecret(t.Context(), w.vol.ID)
			if n := w.outcomes(t); err != nil || i.Released != 1 || n["released"] != 1 || n["repeated"] != tc.repeated || n["refused"] != 0 {
				t.Errorf("counted %d, audit %v, %v", i.Released, n, err)
			}
			if _, err := w.Client(t, nil).Release(t.Context(), w.req); !errors.Is(err, keyclient.ErrConflict) {
				t.Errorf("a second claim afterwards: %v", err)
			}
		})
	}
}

// TestServiceStartsAgain starts the service anew at the worst moments: between
// nonce and release, and between release and answer.
func TestServiceStartsAgain(t *testing.T) {
	t.Parallel()
	t.Run("before the release", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		r, honest, first := w.req, w.req.Attest, true
		r.Attest = func(ctx context.Context, id string, c keyapi.Claim) (keyapi.Evidence, error) {
			if first {
				first = false
				w.Stop(t)
				w.Run(t)
			}
			return honest(ctx, id, c)
		}
		c := newClient(t, keyclient.Options{URL: w.URL, CA: w.CA, ServiceID: w.ID})
		if _, err := c.Release(t.Context(), r); err != nil {
			t.Error(err)
		}
		if n := w.outcomes(t); n["released"] != 1 || n["refused"] != 0 {
			t.Errorf("the nonce of the run before is good: %v", n)
		}
	})
	t.Run("before the answer", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		var lost atomic.Bool
		s := w.front(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/v1/release") && lost.CompareAndSwap(false, true) {
					h.ServeHTTP(httptest.NewRecorder(), r)
					w.Stop(t)
					w.Run(t)
					panic(http.ErrAbortHandler)
				}
				h.ServeHTTP(rw, r)
			})
		})
		c := newClient(t, keyclient.Options{URL: s.URL + "/relay", CA: caOf(s), ServiceID: w.ID})
		if _, err := c.Release(t.Context(), w.req); err != nil {
			t.Error(err)
		}
		if n := w.outcomes(t); n["released"] != 1 || n["repeated"] != 1 {
			t.Errorf("audit: %v", n)
		}
	})
}
