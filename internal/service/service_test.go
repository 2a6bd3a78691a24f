package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func newService(log io.Writer) *Service {
	return New(Config{Name: "test service", LogHint: "see its log", Log: slog.New(slog.NewTextHandler(log, nil)),
		Limits: gate.Limits{Connections: 4, PerSecond: 1e-9, Burst: 2, Memory: 40}})
}

// TestRefusals has handlers fail in all ways: the caller is told what is meant
// for them, and no more.
func TestRefusals(t *testing.T) {
	t.Parallel()
	cause := errors.New("the cause")
	for name, tc := range map[string]struct {
		err    error
		status int
		want   keyapi.Error
		logged string // what Error returns
	}{
		"plain": {Refuse(keyapi.CodeConflict, "no %d", 1), 409,
			keyapi.Error{Code: keyapi.CodeConflict, Message: "no 1"}, "no 1"},
		"wrapping": {Refuse(keyapi.CodeBadRequest, "no: %w", cause).WithHint("try %s", "x"), 400,
			keyapi.Error{Code: keyapi.CodeBadRequest, Message: "no: the cause", Hint: "try x"}, "no: the cause"},
		"with a cause": {Refuse(keyapi.CodeUnavailable, "no").WithCause(cause), 503,
			keyapi.Error{Code: keyapi.CodeUnavailable, Message: "no"}, "no: the cause"},
		"retryable": {Refuse(keyapi.CodeAttestation, "late").AsRetryable(), 403,
			keyapi.Error{Code: keyapi.CodeAttestation, Message: "late", Retryable: true}, "late"},
		"wrapped": {fmt.Errorf("outside: %w", Refuse(keyapi.CodeTooMany, "later")), 429,
			keyapi.Error{Code: keyapi.CodeTooMany, Message: "later"}, "outside: later"},
		"no refusal": {cause, 500,
			keyapi.Error{Code: keyapi.CodeInternal, Message: "internal error of the test service", Hint: "see its log"},
			"the cause"},
	} {
		w := httptest.NewRecorder()
		h := newService(io.Discard).Handler(func(http.ResponseWriter, *http.Request) error { return tc.err })
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		var got keyapi.Error
		if err := manifest.DecodeJSON(w.Body.Bytes(), &got); err != nil || w.Code != tc.status || got != tc.want {
			t.Errorf("%s: %d %+v (%v), want %d %+v", name, w.Code, got, err, tc.status, tc.want)
		}
		if again := w.Header().Get("Retry-After"); (again == "1") != (tc.status == 429 || tc.status == 503) {
			t.Errorf("%s: Retry-After is %q", name, again)
		}
		if tc.err.Error() != tc.logged {
			t.Errorf("%s: the log has %q, want %q", name, tc.err, tc.logged)
		}
	}
	if err := Refuse(keyapi.CodeUnavailable, "no").WithCause(cause); !errors.Is(err, cause) {
		t.Error("a cause is not wrapped")
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	s := newService(io.Discard)
	request := func(body string) *http.Request { return httptest.NewRequest("POST", "/", strings.NewReader(body)) }
	code := func(err error) string {
		if r, ok := errors.AsType[*Refusal](err); ok {
			return r.Code + ": " + r.Message
		}
		return fmt.Sprint(err)
	}
	for i, want := range []string{"<nil>", "<nil>", keyapi.CodeTooMany + ": too many requests from this address"} {
		if got := code(s.Admit(request(""))); got != want {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
	}
	body := func(text string) error {
		b, done, err := s.Body(httptest.NewRecorder(), request(text), 20)
		if err != nil {
			return err
		}
		defer done()
		if !bytes.Equal(b, []byte(text)) {
			t.Errorf("body is %q, want %q", b, text)
		}
		return nil
	}
	if err := body("0123456789"); err != nil {
		t.Error(err)
	}
	if err := body(strings.Repeat("x", 15)); !errors.Is(err, gate.ErrBusy) ||
		code(err) != keyapi.CodeTooMany+": the test service is busy with other requests" {
		t.Errorf("more than an address may hold: %v", err)
	}
	if err := body(strings.Repeat("x", 21)); !errors.Is(err, gate.ErrTooLarge) {
		t.Errorf("too large a body: %v", err)
	}
	queue := gate.NewFairQueue(1, 1)
	leave, err := s.Enter(t.Context(), queue, request(""))
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Enter(ended, queue, request("")); code(err) != keyapi.CodeTooMany+": the test service is busy" {
		t.Errorf("while another is at work: %v", err)
	}
}

// TestLongMessage: what a caller sent comes back, and into the log, only in part.
func TestLongMessage(t *testing.T) {
	t.Parallel()
	r := Refuse(keyapi.CodeBadRequest, "body: %w", errors.New(strings.Repeat("\u00e9", 1_000_000)))
	if len(r.Message) > 1010 || !strings.HasPrefix(r.Message, "body: \u00e9") || strings.ToValidUTF8(r.Message, "?") != r.Message ||
		r.Error() != r.Message {
		t.Errorf("a message of %d bytes", len(r.Message))
	}
}
