package keyserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// from dials the service from one of this machine's loopback addresses.
func (s *site) from(ctx context.Context, host int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(host))}}
	return d.DialContext(ctx, "tcp", strings.TrimPrefix(s.URL, "https://"))
}

func (s *site) tlsConfig(t *testing.T) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CA) {
		t.Fatal("no CA")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// honest deposits, registers and claims as people and nodes do, who try again
// when they are told to.
func (s *site) honest(t *testing.T, job uint32) {
	t.Helper()
	c, err := keyclient.New(keyclient.Options{URL: s.URL, CA: s.CA, ServiceID: s.ID, Signer: s.alice})
	if err != nil {
		t.Fatal(err)
	}
	v := keyservertest.NewVolume(t, fmt.Sprint("data", job), manifest.KindDataset, keyservertest.Policy("alice"))
	if _, err := c.PutSecret(t.Context(), v.ID, v.Secret); err != nil {
		t.Error(err)
	}
	m, b := s.Manifest(t, nil, v)
	sig := keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b)
	if _, err := c.RegisterManifest(t.Context(), b, sig, keyservertest.PrivateOf(t, b)); err != nil {
		t.Error(err)
	}
	r := keyclient.ReleaseRequest{Manifest: m, Digest: manifest.DigestOf(b), Job: s.job(job), Node: "cn1",
		Attest: s.Attest("alice", 1000, nil, nil)}
	if _, err := c.Release(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// TestSlowPeers fills the service with connections that do not go on: at the
// handshake, in the headers, in the body. Others are served.
func TestSlowPeers(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{Limits: keyserver.Limits{Connections: 40, Concurrent: 2}})
	for i, sends := range map[int]string{
		2: "", 3: "", 4: "GET /v1/serv", 5: "POST /v1/nonces HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		6: "POST /v1/release HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
		7: "PUT /v1/secrets/" + keyservertest.RandomHex(16) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n{",
	} {
		for range 25 {
			c, err := s.from(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if i == 2 { // not even a handshake
				continue
			}
			go func() { // ends with the connection, at the latest when the test closes it
				tc := tls.Client(c, s.tlsConfig(t))
				if tc.Handshake() == nil {
					tc.Write([]byte(sends))
				}
			}()
		}
	}
	for job := range uint32(3) {
		s.honest(t, job+1)
	}
}

// TestGarbageFlood sends nonsense as fast as it goes, from one address: it is
// told to wait, others are served, and the audit log stays small.
func TestGarbageFlood(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{Limits: keyserver.Limits{PerSecond: 1, Burst: 350, Concurrent: 4}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var refused, told atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			tr := &http.Transport{TLSClientConfig: s.tlsConfig(t),
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.from(ctx, 9) }}
			defer tr.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				body := []byte(strings.Repeat("{", 1+n%60_000))
				req, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/release", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := tr.RoundTrip(req)
				if err != nil {
					continue // the service, or the end of the test, closed the connection
				}
				_, _ = io.Copy(io.Discard, res.Body) // so that the connection serves again
				res.Body.Close()
				refused.Add(1)
				if res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") != "" {
					told.Add(1)
				}
			}
		})
	}
	for job := uint32(1); job <= 3 || told.Load() == 0; job++ {
		s.honest(t, job)
	}
	stop()
	wg.Wait()
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(string(log), `"remote":"127.0.0.9"`)
	t.Logf("%d requests, %d told to wait, %d written down", refused.Load(), told.Load(), lines)
	if most := 300 + 60 + int(time.Minute.Seconds()); lines < 300 || lines > most || refused.Load() < 350 {
		t.Errorf("%d of %d refusals are in the audit log", lines, refused.Load())
	}
}

// TestOmittedRefusals finds in the log how many refusals are not in it.
func TestOmittedRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	if code := s.postFrom(t, 7, 400, "/v1/release"); code != http.StatusBadRequest {
		t.Fatal(code)
	}
	if code := s.postFrom(t, 8, 1, "/v1/release"); code != http.StatusBadRequest {
		t.Fatal(code)
	}
	s.wantAudited(t, `"remote":"127.0.0.8"`, " refusals before it, too many to write down each")
}

// postFrom makes a number of senseless requests and returns the last's status.
func (s *site) postFrom(t *testing.T, host, n int, path string) (status int) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: s.tlsConfig(t),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.from(ctx, host) }}
	defer tr.CloseIdleConnections()
	for range n {
		res, err := (&http.Client{Transport: tr}).Post(s.URL+path, "application/json", strings.NewReader("{"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil { // so that the connection serves again
			t.Fatal(err)
		}
		res.Body.Close()
		status = res.StatusCode
	}
	return status
}

// TestAccountFillsNoLog reads as one account without end.
func TestAccountFillsNoLog(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	alice, began := s.Client(t, s.alice), time.Now()
	const n = 500
	for range n {
		if _, err := alice.GetSecret(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop(t)
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Count(log, []byte(`"event":"secret.get"`))
	if most := 300 + int(time.Since(began).Seconds()) + 2; lines < 200 || lines > most {
		t.Errorf("%d of %d readings are in the audit log, want at most %d", lines, n, most)
	}
	if !bytes.Contains(log, []byte("readings and repeats before it, too many to write down each")) {
		t.Error("the audit log does not say how many it has not")
	}
}

// TestLargePoliciesFillNoLog sets policies of 16 KiB, each in the place of another one.
func TestLargePoliciesFillNoLog(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, wide(manifest.MaxPolicy))
	alice, err := keyclient.New(keyclient.Options{URL: s.URL, CA: s.CA, ServiceID: s.ID, Signer: s.alice, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(s.Layout.Audit)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	const units, most = 100, 100 * 4 << 10
	keyserver.LimitChanges(s.Server, "alice", units)
	before, made := size(), 0
	for n := range units { // and on when it is refused, which makes lines, too
		p := wide(manifest.MaxPolicy)
		p.Releases = n + 1
		switch _, err := alice.SetPolicy(t.Context(), v.ID, p); {
		case err == nil:
			made++
		case !errors.Is(err, keyclient.ErrTooMany):
			t.Fatal(err)
		}
	}
	if made == 0 || made > units/16 || size()-before > most {
		t.Errorf("%d policies were set, and %d bytes of the audit log are one account's, want at most %d", made, size()-before, most)
	}
	s.Deposit(t, s.bob, "not limited by that", manifest.KindDataset, keyservertest.Policy("bob"))
}
