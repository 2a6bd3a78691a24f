package service

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// Refusal is an error with what the caller is told of it.
type Refusal struct {
	Code      string // of keyapi
	Message   string
	Hint      string // "" if there is none
	Retryable bool   // see keyapi.Error
	err       error  // wrapped, may be nil
	internal  bool   // err's text is not in Message: it is for the log
}

// maxMessage bounds a message, in bytes: errors of parsers repeat what was sent, and
// it goes into the log.
const maxMessage = 1000

// Refuse returns a refusal; args may hold one error for %w.
func Refuse(code, format string, args ...any) *Refusal {
	err := fmt.Errorf(format, args...)
	m := err.Error()
	if len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage], "") + "..."
	}
	return &Refusal{Code: code, Message: m, err: errors.Unwrap(err)}
}

// WithHint adds what the caller can do about it.
func (r *Refusal) WithHint(format string, args ...any) *Refusal {
	r.Hint = fmt.Sprintf(format, args...)
	return r
}

// WithCause wraps err, which the log has and the caller is not told.
func (r *Refusal) WithCause(err error) *Refusal {
	r.err, r.internal = err, err != nil
	return r
}

// AsRetryable marks a refusal that does not hold for the same request made anew.
func (r *Refusal) AsRetryable() *Refusal {
	r.Retryable = true
	return r
}

// Error returns what is written into the log.
func (r *Refusal) Error() string {
	if r.internal {
		return r.Message + ": " + r.err.Error()
	}
	return r.Message
}

// Unwrap returns the error behind it.
func (r *Refusal) Unwrap() error { return r.err }

// statusOf are the HTTP statuses of keyapi's codes.
var statusOf = map[string]int{
	keyapi.CodeBadRequest:   http.StatusBadRequest,
	keyapi.CodeUnauthorised: http.StatusUnauthorized,
	keyapi.CodeForbidden:    http.StatusForbidden,
	keyapi.CodeAttestation:  http.StatusForbidden,
	keyapi.CodePolicy:       http.StatusForbidden,
	keyapi.CodeNotFound:     http.StatusNotFound,
	keyapi.CodeConflict:     http.StatusConflict,
	keyapi.CodeChanged:      http.StatusPreconditionFailed,
	keyapi.CodeTooMany:      http.StatusTooManyRequests,
	keyapi.CodeInternal:     http.StatusInternalServerError,
	keyapi.CodeUnavailable:  http.StatusServiceUnavailable,
}

// retryAfter is what 429 and 503 ask for, in seconds.
const retryAfter = 1

// StatusOf returns the HTTP status of one of keyapi's codes.
func StatusOf(code string) int { return statusOf[code] }

// AsRefusal returns the refusal in err's chain, or one that says no more than
// that something is wrong inside.
func (s *Service) AsRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return Refuse(keyapi.CodeInternal, "internal error of the %s", s.config.Name).WithHint("%s", s.config.LogHint)
}

// Handler returns a handler that answers the error which h returns. Without
// one, h has answered.
func (s *Service) Handler(h func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			writeRefusal(w, s.AsRefusal(err))
		}
	})
}

func writeRefusal(w http.ResponseWriter, r *Refusal) {
	status := StatusOf(r.Code)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	keyapi.WriteJSON(w, status, keyapi.Error{Code: r.Code, Message: r.Message, Hint: r.Hint, Retryable: r.Retryable})
}
