package keyserver

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// refusal is an error with the code that the caller sees.
type refusal struct {
	code      string
	msg       string
	hint      string
	retryable bool  // see keyapi.Error
	err       error // wrapped, may be nil
}

func (r *refusal) Error() string { return r.msg }
func (r *refusal) Unwrap() error { return r.err }

// refuse makes a refusal; args may hold one error for %w.
func refuse(code, format string, args ...any) *refusal {
	err := fmt.Errorf(format, args...)
	return &refusal{code: code, msg: err.Error(), err: errors.Unwrap(err)}
}

func (r *refusal) withHint(format string, args ...any) *refusal {
	r.hint = fmt.Sprintf(format, args...)
	return r
}

var statusOf = map[string]int{
	keyapi.CodeBadRequest:   http.StatusBadRequest,
	keyapi.CodeUnauthorised: http.StatusUnauthorized,
	keyapi.CodeForbidden:    http.StatusForbidden,
	keyapi.CodeAttestation:  http.StatusForbidden,
	keyapi.CodePolicy:       http.StatusForbidden,
	keyapi.CodeNotFound:     http.StatusNotFound,
	keyapi.CodeConflict:     http.StatusConflict,
	keyapi.CodeTooMany:      http.StatusTooManyRequests,
	keyapi.CodeInternal:     http.StatusInternalServerError,
	keyapi.CodeUnavailable:  http.StatusServiceUnavailable,
}

// retryAfter is what 429 and 503 ask for, in seconds.
const retryAfter = 1

// asRefusal turns any error into what the caller may see of it.
func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok && !errors.Is(err, ErrAuditWrite) {
		return r
	}
	if errors.Is(err, ErrAuditWrite) {
		return refuse(keyapi.CodeUnavailable, "the key service cannot write its audit log or store; nothing was done").
			withHint("its administrator finds the reason in the service's log")
	}
	return refuse(keyapi.CodeInternal, "internal error of the key service").
		withHint("its administrator finds the reason in the service's log")
}

func writeError(w http.ResponseWriter, r *refusal) {
	status := statusOf[r.code]
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	keyapi.WriteJSON(w, status, keyapi.Error{Code: r.code, Message: r.msg, Hint: r.hint, Retryable: r.retryable})
}

// auditReason is err's text, bounded.
func auditReason(err error) string {
	const most = 400
	s := err.Error()
	if len(s) > most {
		s = s[:most]
	}
	return s
}
