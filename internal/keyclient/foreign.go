package keyclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// servicePath is where a service says who it is: the first that is asked of it.
const servicePath = "/v1/service"

// foreignHint is for whoever gave the address of something else.
const foreignHint = "name a sealbatch key service under [hpcs-server] url, with its path if it has one; HPCS's own server, " +
	"with TLS before it or not, is none (docs/migrating-from-hpcs.md)"

// transportError returns err as that of a service that is out of reach, which may
// come back, of one that must not be trusted, or of something else that was taken for one.
func (c *Client) transportError(ctx context.Context, err error) error {
	said := fault.Network(err, c.base.Host, "[hpcs-server] url")
	op, isOp := errors.AsType[*net.OpError](err)
	atProxy := isOp && op.Op == "proxyconnect"
	if atProxy {
		said = fault.Network(err, "the proxy", "HTTPS_PROXY")
	}
	var cert *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, fault.Network(ctx.Err(), c.base.Host, "[hpcs-server] url"))
	case errors.As(err, &cert) && c.system && !atProxy && !saysWhy(cert.Err):
		return fault.New(fault.Config, fmt.Errorf("%w: %s shows a certificate for which no authority of this machine vouches", ErrService,
			c.base.Host), "name the PEM file with the service's own authority, which its operator gives out: ca-cert under [hpcs-server]")
	case errors.As(err, &cert):
		return fmt.Errorf("%w: %w", ErrService, said)
	case !atProxy && speaksNoTLS(err):
		return fault.WithHint(fmt.Errorf("%w: %w", ErrForeign, said), foreignHint)
	case isOp && op.Op == "dial":
		return fmt.Errorf("%w: %w", ErrUnavailable, notSent{said})
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, said)
}

// saysWhy reports whether a certificate has another fault than that nobody who counts vouches for it.
func saysWhy(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired || errors.As(err, new(x509.HostnameError))
}

// speaksNoTLS reports whether the other side does not speak TLS as a key service does, which no second try alters.
func speaksNoTLS(err error) bool {
	if errors.As(err, new(tls.RecordHeaderError)) {
		return true
	}
	said := err.Error() // package tls does not export its alerts, nor net/http this error
	return strings.Contains(said, "server gave HTTP response to HTTPS client") ||
		strings.Contains(said, "protocol version not supported") ||
		strings.Contains(said, "remote error: tls:") && !strings.Contains(said, "internal error")
}

// apiError returns the refusal that b is. Something before the service, which is away itself, answers with
// a page of its own as well.
func apiError(status int, b []byte) error {
	var e keyapi.Error
	if err := manifest.DecodeJSON(b, &e); err == nil && byCode[e.Code] != nil {
		return &APIError{Status: status, Code: e.Code, Message: clean(e.Message), Hint: clean(e.Hint),
			Retryable: e.Retryable, kind: byCode[e.Code]}
	}
	kind := ErrForeign
	switch status {
	case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusServiceUnavailable:
		kind = ErrUnavailable
	case http.StatusTooManyRequests:
		kind = ErrTooMany
	}
	return foreign(kind, fmt.Sprintf("%d %s", status, http.StatusText(status)), b, nil)
}

// notOurs returns the error of an answer that could not be decoded. JSON to a call that only a key service has
// been told of is one's answer that does not hold.
func notOurs(k call, b []byte, err error) error {
	if k.path != servicePath && json.Valid(b) {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return foreign(ErrForeign, "200 OK", b, err)
}

// foreign is an answer that is not of a key service's making.
func foreign(kind error, status string, b []byte, cause error) error {
	what := "which is not a key service's"
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("<")) {
		what = "which is a web page: of a proxy, or of another server"
	}
	text := fmt.Sprintf("%v: HTTP status %s with an answer %s", kind, status, what)
	return fault.WithHint(fault.Reword(errors.Join(kind, cause), text), foreignHint)
}
