package keyclient

import (
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// What a key service's refusal means; errors.Is tells them apart, and those with
// a class decide a program's exit code.
var (
	ErrBadRequest   = errors.New("key service does not accept the request")
	ErrUnauthorised = fault.Sentinel(fault.Key, "key service does not accept the signature")
	ErrForbidden    = fault.Sentinel(fault.Key, "not this account's")
	ErrAttestation  = fault.Sentinel(fault.Attestation, "attestation refused")
	ErrPolicy       = fault.Sentinel(fault.Key, "key refused")
	ErrNotFound     = errors.New("not at the key service")
	ErrConflict     = errors.New("exists, bound or claimed already")
	ErrChanged      = errors.New("nothing was done")
	ErrTooMany      = errors.New("key service is too busy")
	ErrUnavailable  = errors.New("key service is not available")
	// ErrService says that who answered is not the expected key service.
	ErrService = fault.Sentinel(fault.Integrity, "not the expected key service")
	// ErrForeign says that what answers under the URL is something else, or does not
	// speak TLS: the URL is wrong, and trying again does not help.
	ErrForeign = fault.Sentinel(fault.Config, "that is no sealbatch key service")
	// ErrAnswer says that an answer does not hold: a wrong signature, keys
	// for something else, or no proper JSON.
	ErrAnswer = fault.Sentinel(fault.Integrity, "answer of the key service does not hold")
)

var byCode = map[string]error{
	keyapi.CodeBadRequest: ErrBadRequest, keyapi.CodeUnauthorised: ErrUnauthorised, keyapi.CodeForbidden: ErrForbidden,
	keyapi.CodeAttestation: ErrAttestation, keyapi.CodePolicy: ErrPolicy, keyapi.CodeNotFound: ErrNotFound,
	keyapi.CodeConflict: ErrConflict, keyapi.CodeChanged: ErrChanged, keyapi.CodeTooMany: ErrTooMany,
	keyapi.CodeInternal: ErrUnavailable, keyapi.CodeUnavailable: ErrUnavailable,
}

// APIError is a refusal as the service worded it. It wraps one of the errors above.
type APIError struct {
	Status    int
	Code      string
	Message   string
	Hint      string
	Retryable bool // it only came too late (keyapi.Error)
	kind      error
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("%v: %s", e.kind, e.Message)
	if e.Hint != "" {
		s += "\n" + e.Hint
	}
	return s
}

// Unwrap returns the kind of refusal.
func (e *APIError) Unwrap() error { return e.kind }
