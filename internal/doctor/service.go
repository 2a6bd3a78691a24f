package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
)

// KeyService answers who it is, and whether it knows the user's key.
type KeyService interface {
	Service(ctx context.Context) (keyapi.Service, error)
	Enrolled(ctx context.Context) error
}

// Service is a key service as this machine sees it.
type Service struct {
	URL      string
	CA       []byte // PEM; nil for the authorities of this machine
	Keys     KeyService
	Evidence evidence.Types // that nodes can make
	Report   Report
}

// CheckFromNode asks the key service from a compute node, where it need not be
// within reach.
func (s Service) CheckFromNode(ctx context.Context) {
	const what = "key service"
	answer, err := s.Keys.Service(ctx)
	switch {
	case errors.Is(err, keyclient.ErrUnavailable), errors.Is(err, keyclient.ErrForeign): // a site's firewall may answer
		s.Report.warn(what, s.URL+" cannot be reached from here: jobs ask through the cluster's verifier",
			"fine where the cluster has a verifier (sealbatch doctor on your machine lists it)")
	case err != nil:
		s.Report.failed(what, err)
	default:
		s.Report.ok(what, "%s answers from here", s.URL)
		s.clock(answer.Time)
		s.attestation(answer, func(e evidence.Endpoint) { s.certificate(ctx, e.Name, e.URL, []byte(e.CA)) })
	}
}

// check asks the key service from the user's machine. Of the verifiers it only
// says which there are: nobody but their nodes, and the service, needs to reach them.
func (s Service) check(ctx context.Context) {
	answer, err := s.Keys.Service(ctx)
	if err != nil {
		s.Report.failed("key service", err)
		return
	}
	s.Report.ok("key service", "%s is %s", s.URL, answer.ID)
	s.certificate(ctx, "key service's certificate", s.URL, s.CA)
	s.clock(answer.Time)
	if err := s.Keys.Enrolled(ctx); err != nil {
		s.Report.failed("account", err)
	} else {
		s.Report.ok("account", "the key service knows this key")
	}
	s.attestation(answer, func(e evidence.Endpoint) { s.Report.ok(e.Name, "%s, good for tier %s", e.URL, e.Tier) })
}

// attestation looks at the services that nodes need for each type of evidence.
func (s Service) attestation(answer keyapi.Service, look func(evidence.Endpoint)) {
	for _, name := range slices.Sorted(maps.Keys(s.Evidence)) {
		services := s.Evidence[name].Services
		if services == nil {
			continue
		}
		all, err := services.List(answer)
		for _, e := range all {
			look(e)
		}
		if err != nil {
			s.Report.warn(services.What, err.Error(), fault.Hint(err))
		}
	}
}

// clockLimit is by how much clocks may differ before it is worth a word.
// Requests are refused from two minutes on.
const clockLimit = 20 * time.Second

func (s Service) clock(service time.Time) {
	off := time.Since(service).Round(time.Second)
	if off.Abs() > clockLimit {
		s.Report.bad("clock", fmt.Sprintf("this machine's is off by %v, compared with the key service's", off), "set it (NTP)")
		return
	}
	s.Report.ok("clock", "agrees with the key service's")
}

const (
	// soon is when a certificate's end is worth a word.
	soon = 14 * 24 * time.Hour
	// handshakeLimit is how long connecting may take.
	handshakeLimit = 15 * time.Second
)

// certificate shakes hands with a service and looks at how long its certificate
// is good.
func (s Service) certificate(ctx context.Context, what, address string, ca []byte) {
	ends, err := certificateEnd(ctx, address, ca)
	if err != nil {
		s.Report.failed(what, err)
		return
	}
	s.Report(certificateFinding(what, ends))
}

func certificateFinding(what string, ends time.Time) Finding {
	f := Finding{What: what, Detail: "answers; its certificate is good until " + ends.UTC().Format(time.DateOnly)}
	if time.Until(ends) < soon {
		f.Warn, f.Fix = true, "its operator should renew it"
	}
	return f
}

// certificateEnd returns when the certificate of the service at a URL expires.
// The service has to prove that it holds one of the authority ca, in PEM; nil are those of this machine.
func certificateEnd(ctx context.Context, address string, ca []byte) (time.Time, error) {
	u, err := url.Parse(address)
	if err != nil {
		return time.Time{}, err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	var pool *x509.CertPool
	if ca != nil {
		pool = x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return time.Time{}, fault.Network(fault.New(fault.Other, err, "does it run, and may this machine connect to it?"), u.Host, "its URL")
	}
	defer conn.Close()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return time.Time{}, errors.New("the connection is not TLS") // a tls.Dialer makes no others
	}
	return t.ConnectionState().PeerCertificates[0].NotAfter, nil
}
