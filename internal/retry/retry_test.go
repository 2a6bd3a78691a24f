package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

var errBusy = errors.New("busy")

// recorded is a policy whose waits are noted, not waited for.
func recorded(p Policy, rnd func(time.Duration) time.Duration) (Policy, *[]time.Duration) {
	waits := new([]time.Duration)
	p.Rand = rnd
	p.Sleep = func(ctx context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		return ctx.Err()
	}
	return p, waits
}

func lowest(time.Duration) time.Duration    { return 0 }
func highest(n time.Duration) time.Duration { return n - 1 }

func TestWaitsGrowToTheirMost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rnd  func(time.Duration) time.Duration
		want []time.Duration
	}{
		"shortest": {lowest, []time.Duration{500, 1000, 2000, 2500, 2500}},
		"longest":  {highest, []time.Duration{1499, 2999, 5999, 7499, 7499}},
	} {
		p, waits := recorded(Policy{First: 1000, Most: 5000, Tries: 6}, c.rnd)
		tries := 0
		err := p.Do(t.Context(), func() error { tries++; return errBusy })
		if !errors.Is(err, errBusy) || tries != 6 || !slices.Equal(*waits, c.want) {
			t.Errorf("%s: %v after %d tries, waits %v, want %v", name, err, tries, *waits, c.want)
		}
	}
}

// Many that fail at the same time do not come back in step, also where all were
// asked to wait for the same time.
func TestWaitsDiffer(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errBusy, After(errBusy, time.Minute)} {
		seen := map[time.Duration]bool{}
		p := Policy{Sleep: func(_ context.Context, d time.Duration) error { seen[d] = true; return nil }}
		for range 100 {
			if err := p.Begin().Pause(t.Context(), err); err != nil {
				t.Fatal(err)
			}
		}
		if len(seen) < 90 {
			t.Errorf("%v: a hundred waits, of which %d differ", err, len(seen))
		}
	}
}

func TestAskedWaitIsTheLeast(t *testing.T) {
	t.Parallel()
	p, waits := recorded(Policy{First: 1000, Most: 5000, Tries: 2}, lowest)
	_ = p.Do(t.Context(), func() error { return fmt.Errorf("wrapped: %w", After(errBusy, 7000)) })
	if !slices.Equal(*waits, []time.Duration{7000}) {
		t.Errorf("waits %v", *waits)
	}
	if After(nil, time.Second) != nil || After(errBusy, 0) != errBusy || !errors.Is(After(errBusy, 1), errBusy) {
		t.Error("After changes the error")
	}
}

func TestDoEnds(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	p, waits := recorded(Policy{Worth: func(err error) bool { return !errors.Is(err, bad) }}, lowest)
	results := []error{errBusy, errBusy, nil, bad}
	next := func() error {
		err := results[0]
		results = results[1:]
		return err
	}
	if err := p.Do(t.Context(), next); err != nil || len(*waits) != 2 {
		t.Errorf("success: %v after %v", err, *waits)
	}
	if err := p.Do(t.Context(), next); !errors.Is(err, bad) || len(*waits) != 2 {
		t.Errorf("not worth another: %v after %v", err, *waits)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Policy{First: time.Hour}.Do(ctx, func() error { return errBusy })
	if !errors.Is(err, errBusy) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	p, waits := recorded(Policy{First: 1000, Tries: 3}, lowest)
	b := p.Begin()
	for range 5 {
		for range 2 {
			if err := b.Pause(t.Context(), errBusy); err != nil {
				t.Fatal(err)
			}
		}
		b.Reset()
	}
	if len(*waits) != 10 || (*waits)[9] != 1000 {
		t.Errorf("waits %v", *waits)
	}
}

func TestFinalErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"none":                {nil, false},
		"busy":                {errBusy, false},
		"unknown authority":   {x509.UnknownAuthorityError{}, true},
		"another host's":      {x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}, true},
		"expired":             {x509.CertificateInvalidError{Reason: x509.Expired}, true},
		"not verified":        {&tls.CertificateVerificationError{Err: errBusy}, true},
		"no TLS":              {tls.RecordHeaderError{}, true},
		"HTTP":                {http.ErrSchemeMismatch, true},
		"unknown name":        {&net.OpError{Err: &net.DNSError{IsNotFound: true}}, true},
		"name server is down": {&net.DNSError{IsTemporary: true, IsTimeout: true}, false},
		"refused":             {&net.OpError{Op: "dial", Err: io.EOF}, false},
	} {
		if c.err != nil {
			c.err = fmt.Errorf("call: %w", c.err)
		}
		if Final(c.err) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
		if !c.want || c.err == nil {
			continue
		}
		tries := 0
		if err := (Policy{}).Do(t.Context(), func() error { tries++; return c.err }); tries != 1 || !errors.Is(err, c.err) {
			t.Errorf("%s: %d tries, %v", name, tries, err)
		}
	}
}

// The same, as net/http reports it.
func TestFinalErrorsOfHTTP(t *testing.T) {
	t.Parallel()
	silent := log.New(io.Discard, "", 0)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = silent
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "SSH-2.0-not TLS at all\r\n")
			c.Close()
		}
	}()
	trusting := secure.Client()
	for name, c := range map[string]struct {
		client *http.Client
		url    string
		want   bool
	}{
		"unknown authority": {http.DefaultClient, secure.URL, true},
		"another host's":    {trusting, strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), true},
		"plain HTTP":        {trusting, strings.Replace(plain.URL, "http:", "https:", 1), true},
		"something else":    {trusting, "https://" + mute.Addr().String(), true},
		"nobody listens":    {trusting, gone.URL, false},
	} {
		resp, err := c.client.Get(c.url)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: answered", name)
		} else if Final(err) != c.want {
			t.Errorf("%s: final is %v: %v", name, !c.want, err)
		}
	}
}
