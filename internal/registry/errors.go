package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/retry"
	"github.com/sealbatch/sealbatch/internal/spool"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ErrBlob says that what a registry sent is not what the image's manifest names.
var ErrBlob = fault.Sentinel(fault.Integrity, "the registry sent something else than the image names")

// StatusError is an answer by which a registry says no.
type StatusError struct {
	Host    string
	Code    int           // of HTTP
	Codes   []string      // of the registry: "MANIFEST_UNKNOWN"
	Message string        // of the registry, printable and short
	Wait    time.Duration // that was asked for; 0 for none
}

// blobError is an error about a layer or a config whose manifest had been there. It wraps, since the answer to one failed
// login is the error of all that are fetched at the moment.
type blobError struct{ error }

func (e blobError) Unwrap() error { return e.error }

// longestWait is what a registry may ask for while somebody looks on.
const longestWait = 2 * time.Minute

// Error returns what was answered.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s answers %d %s", e.Host, e.Code, http.StatusText(e.Code))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func (e *StatusError) has(code string) bool { return slices.Contains(e.Codes, code) }

// statusOf reads an answer that is an error, with the wait that it asks for.
func statusOf(resp *http.Response, host string) error {
	e := &StatusError{Host: host, Code: resp.StatusCode, Wait: retryAfter(resp.Header, time.Now())}
	if b, err := fsx.ReadAll(resp.Body, 64<<10); err == nil {
		e.read(b)
	}
	return retry.After(e, e.Wait)
}

// read takes what the body says (distribution-spec, "Error codes"); anything else is left alone.
func (e *StatusError) read(body []byte) {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &doc) != nil {
		return
	}
	for _, one := range doc.Errors[:min(len(doc.Errors), 4)] {
		e.Codes = append(e.Codes, one.Code)
		if e.Message == "" {
			e.Message = fmt.Sprintf("%.200s", text.Printable(one.Message))
		}
	}
}

// status returns the refusal in err, ours or the library's.
func status(err error) *StatusError {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e
	}
	t, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return nil
	}
	e := &StatusError{Code: t.StatusCode}
	if t.Request != nil {
		e.Host = t.Request.URL.Host
	}
	for _, d := range t.Errors {
		e.Codes = append(e.Codes, string(d.Code))
		e.Message = fmt.Sprintf("%.200s", text.Printable(d.Message))
	}
	return e
}

// again reports whether another try may do better.
func again(err error) bool {
	if e := status(err); e != nil {
		return passing(e.Code) && e.Wait <= longestWait
	}
	for _, final := range []error{errPlain, errElsewhere, errWebPage, errTooLong, errRedirects, ErrBlob,
		spool.ErrFull, spool.ErrDamaged, spool.ErrClosed, context.Canceled} {
		if errors.Is(err, final) {
			return false
		}
	}
	return !retry.Final(err) && fault.ClassOf(err) == fault.Other
}

// withoutURL takes the addresses off that net/http puts before an error: they may hold a signature
// by which a layer can be fetched.
func withoutURL(err error) error {
	for {
		u, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = u.Err
	}
}

// inWords returns err, which came while asking s, for people.
func (s *source) inWords(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if fault.Hint(err) != "" { // it speaks for itself
		return err
	}
	if errors.Is(err, ErrBlob) {
		return fault.WithHint(fmt.Errorf("%s: %w", s.host(), err),
			"try again; if it stays so, have who runs "+s.host()+" look, or push the image anew")
	}
	if e := status(err); e != nil && !unvouched(err) {
		said, hint := s.refusal(e, errors.As(err, new(blobError)))
		return fault.New(fault.Other, fault.Reword(err, said), hint)
	}
	said, hint := s.trouble(err)
	if said == "" {
		return fault.Network(withoutURL(err), s.host(), "the image's name")
	}
	return fault.New(fault.Other, fault.Reword(err, said), hint)
}

// refusal says what an answer means, and what to do about it.
func (s *source) refusal(e *StatusError, blob bool) (said, hint string) {
	host := s.host()
	login := fmt.Sprintf("docker login %s, or podman login %s", host, host)
	switch {
	case blob && (e.Code == http.StatusNotFound || e.Code == http.StatusGone):
		return host + " has the image's manifest, but not this part of it", "have who runs " + host + " look, or push the image anew"
	case e.Code == http.StatusTooManyRequests:
		wait := "wait"
		if e.Wait > 0 {
			wait += " " + text.Span(e.Wait)
		}
		return host + " has had too many requests from here for now (its rate limit)" + quote(e.Message),
			wait + ", or log in, which may raise the limit: " + login
	case e.Code == http.StatusUnauthorized && s.login.from != "":
		return fmt.Sprintf("%s refuses the login that %s has for it, or has no such image", host, s.login.from),
			"is the name right? Log in anew: " + login
	case e.Code == http.StatusUnauthorized:
		return host + " has no such image that may be read without a login",
			"is the name right? If it is private: " + login
	case e.Code == http.StatusForbidden && s.login.from != "":
		return fmt.Sprintf("%s does not let the login that %s has for it read this image", host, s.login.from) +
				quote(e.Message),
			"is the name right? Ask its owner, or log in as somebody who may: " + login
	case e.Code == http.StatusForbidden:
		return host + " does not let anybody read this image without a login" + quote(e.Message),
			"is the name right? If it is private: " + login
	case e.Code == http.StatusNotFound && e.has("NAME_UNKNOWN"):
		return host + " has no repository of that name",
			"is the name right? Where others may not know of it, a login helps: " + login
	case e.Code == http.StatusNotFound:
		return host + " has no such image", "are the name and the tag right? Where others may not know of it, a login helps: " + login
	case e.Code >= 500:
		return fmt.Sprintf("%s is in trouble (it answers %d %s)", host, e.Code, http.StatusText(e.Code)) +
			quote(e.Message), "try again later"
	}
	return fmt.Sprintf("%s answers %d %s", host, e.Code, http.StatusText(e.Code)) + quote(e.Message),
		"is it a container registry?"
}

func quote(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

// trouble says what is wrong with a line where internal/fault does not know, or knows it of other services.
func (s *source) trouble(err error) (said, hint string) {
	host := s.host()
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	authority := "put its CA's certificate into ~/.config/containers/certs.d/" + host + "/ca.crt"
	switch {
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return "", ""
	case unvouched(err):
		return host + " shows a certificate of an unknown authority", authority +
			", or name all that count with SSL_CERT_FILE"
	case errors.Is(err, http.ErrSchemeMismatch):
		return host + " does not speak TLS, and " + errPlain.Error(), "is the port in the image's name right?"
	case errors.Is(err, errPlain) && !connecting(err):
		return host + " leads to an address without TLS, and " + errPlain.Error(), "ask who runs it"
	case errors.Is(err, errElsewhere):
		return host + " leads to another host, and " + errElsewhere.Error(),
			"ask who runs it; without a login (docker logout) it may be read"
	case strings.Contains(err.Error(), "www-authenticate"):
		return host + " names a token server to which no login can be sent safely",
			"ask who runs it: the realm that it names has to be its own, or https with a host name"
	case errors.Is(err, errWebPage):
		return host + " answers with " + errWebPage.Error(),
			"does this network want a login in a browser, and is it a container registry?"
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("%s answers with more than a manifest or a config may have (%s)", host, errTooLong),
			"is it a container image?"
	case errors.Is(err, errRedirects), strings.Contains(err.Error(), "stopped after 10 redirects"):
		return host + " leads from address to address without an end", "ask who runs it"
	case errors.Is(err, errStalled):
		return host + " sends nothing any more", "try again; is the network slow, or a firewall in the way?"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "the connection to " + host + " breaks again and again", "try again later"
	}
	return "", ""
}

// unvouched reports whether nobody whom this machine believes vouches for a certificate.
func unvouched(err error) bool {
	var unknown x509.UnknownAuthorityError
	var unverified *tls.CertificateVerificationError
	return errors.As(err, &unknown) || errors.As(err, &unverified)
}

// connecting reports whether err is, too, one of a connection that could not be made.
func connecting(err error) bool { return fault.Hint(fault.Network(err, "", "")) != "" }
