package keyserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/keyapi"
)

func code(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	return ""
}

func TestReplayCache(t *testing.T) {
	t.Parallel()
	c := newReplayCache(2)
	now := time.Now()
	for i, tc := range []struct {
		account, nonce string
		after          time.Duration
		want           string
	}{
		{"a", "1", 0, ""}, {"a", "1", 0, keyapi.CodeUnauthorised}, {"b", "1", 0, ""},
		{"a", "2", time.Minute, ""}, {"a", "3", time.Minute, keyapi.CodeTooMany}, {"b", "3", time.Minute, ""},
		{"a", "1", 2 * keyapi.MaxSkew, keyapi.CodeUnauthorised}, // could still be within its time
		{"a", "3", 2*keyapi.MaxSkew + 2*time.Second, ""},
	} {
		if got := code(c.use(tc.account, tc.nonce, now.Add(tc.after))); got != tc.want {
			t.Errorf("step %d: %q, want %q", i, got, tc.want)
		}
	}
}

func TestNonces(t *testing.T) {
	t.Parallel()
	n := newNonces(2)
	now := time.Now()
	issue := func(at time.Time, want string) []byte {
		t.Helper()
		b, _, err := n.issue(at)
		if code(err) != want {
			t.Fatalf("issue: %v, want %q", err, want)
		}
		return b
	}
	one, two := issue(now, ""), issue(now, "")
	issue(now, keyapi.CodeTooMany)
	if string(one) == string(two) {
		t.Error("two nonces are equal")
	}
	if err := n.use(two, now); err != nil {
		t.Error(err)
	}
	if err := n.use(two, now); code(err) != keyapi.CodeAttestation {
		t.Errorf("used twice: %v", err)
	}
	issue(now, "")
	if err := n.use(one, now.Add(keyapi.NonceTTL+time.Nanosecond)); code(err) != keyapi.CodeAttestation {
		t.Errorf("expired: %v", err)
	}
	if err := n.use(nil, now); code(err) != keyapi.CodeAttestation {
		t.Errorf("no nonce: %v", err)
	}
}

func TestRemotes(t *testing.T) {
	t.Parallel()
	r := newRemotes(Limits{PerSecond: 1e-9, Burst: 1})
	for _, tc := range []struct {
		addr string
		want bool
	}{
		{"10.0.0.1:1", true}, {"10.0.0.1:2", false}, {"10.0.0.2:1", true}, {"[::ffff:10.0.0.2]:1", false},
		{"[2001:db8::1]:1", true}, {"[2001:db8::2]:1", false}, {"[2001:db8:0:1::1]:1", true}, {"junk", true}, {"other junk", false},
	} {
		if got := r.allow(tc.addr); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.addr, got, tc.want)
		}
	}
	for i := range maxRemotes {
		r.allow(fmt.Sprintf("[2001:db8:2:%x::1]:1", i))
		if i%1000 == 0 && r.allow("10.0.0.1:1") {
			t.Error("an address that keeps knocking was forgotten")
		}
	}
	if n := len(r.young) + len(r.old); n > maxRemotes || n < maxRemotes/2 {
		t.Errorf("%d addresses are remembered", n)
	}
}

// TestBusy turns away what exceeds the number of requests at work.
func TestBusy(t *testing.T) {
	t.Parallel()
	s := &Server{slots: make(chan struct{}, 1), remotes: newRemotes(Limits{}.withDefaults())}
	inside, leave := make(chan struct{}), make(chan struct{})
	h := s.limited(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(inside); <-leave }))
	done := make(chan struct{})
	go func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		close(done)
	}()
	<-inside
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", strings.NewReader("never read")))
	if rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
	}
	close(leave)
	<-done
	rec = httptest.NewRecorder()
	inside = make(chan struct{})
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != http.StatusOK {
		t.Errorf("afterwards: status %d", rec.Code)
	}
}
