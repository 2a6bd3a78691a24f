package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// reworded says something in other words than its cause, which errors.Is and errors.As find all the same.
type reworded struct {
	text  string
	cause error
}

func (r *reworded) Error() string { return r.text }
func (r *reworded) Unwrap() error { return r.cause }

// Reword returns err with another text; nil for nil.
func Reword(err error, text string) error {
	if err == nil {
		return nil
	}
	return &reworded{text, err}
}

// Network returns err, of a connection to host or of TLS over it, in words and with a hint; where names the setting that
// says which host that is. What it does not know keeps its text.
func Network(err error, host, where string) error {
	text, hint := inWords(err, host, where)
	if text == "" {
		return err
	}
	return New(ClassOf(err), Reword(err, text), hint)
}

func inWords(err error, host, where string) (text, hint string) {
	if text, hint = certificate(err, host, where); text != "" {
		return text, hint
	}
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var slow net.Error
	hasWord := func(word string) bool { return err != nil && strings.Contains(err.Error(), word) }
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no host " + dns.Name, "look for a slip in " + where + ", and whether DNS works here"
	case errors.As(err, &dns):
		return "the address of " + dns.Name + " cannot be found out: DNS does not answer", "try again, or ask who runs this network"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens at " + host, "is the port in " + where + " right, and does the service run?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no way leads from here to " + host, "is this machine on the right network, or does it need a VPN?"
	case errors.As(err, &record), hasWord("server gave HTTP response to HTTPS client"):
		return "what answers at " + host + " does not speak TLS", "is the port in " + where + " right?"
	case hasWord("protocol version not supported"):
		return "what answers at " + host + " speaks too old a version of TLS", "is the address in " + where + " right?"
	case errors.As(err, &alert), hasWord("remote error: tls:"):
		return "what answers at " + host + " refuses TLS as it is spoken here", "is the address in " + where + " right?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return host + " does not answer in time", "is the port in " + where + " right, and does a firewall let this machine through?"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return host + " ends the connection without an answer", "is the port in " + where + " right, and does the service run?"
	}
	return "", ""
}

// certificate says what is wrong with a server's certificate.
func certificate(err error, host, where string) (text, hint string) {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var any *tls.CertificateVerificationError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("%s shows a certificate that is good from %s to %s, and this machine's clock says %s", host,
				rfc3339(invalid.Cert.NotBefore), rfc3339(invalid.Cert.NotAfter), rfc3339(time.Now())),
			"set the clock if it is wrong, else have the certificate renewed"
	case errors.As(err, &name):
		return fmt.Sprintf("%s shows a certificate for %s, not %s", host, strings.Join(namesOf(name.Certificate), ", "), name.Host),
			"name it in " + where + " as its certificate does"
	case errors.As(err, &unknown), errors.As(err, &any):
		return host + " shows a certificate of an unknown authority: its CA (ca-cert) does not vouch for it",
			"is ca-cert the file that the service's operator gave out, and " + where + " its address?"
	}
	return "", ""
}

func namesOf(c *x509.Certificate) []string {
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names[:min(len(names), 10)]
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
