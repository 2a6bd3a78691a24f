package keyclient_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// world is a key service with one volume of alice's and a job that uses it.
type world struct {
	*keyservertest.Service
	alice ssh.Signer
	vol   keyservertest.Volume
	req   keyclient.ReleaseRequest
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{alice: keyservertest.NewSigner(t)}
	w.Service = keyservertest.Start(t, keyservertest.Options{Accounts: map[string]ssh.PublicKey{"alice": w.alice.PublicKey()}})
	w.vol = w.Deposit(t, w.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	m, b := w.Manifest(t, nil, w.vol)
	w.req = keyclient.ReleaseRequest{Manifest: m, Digest: w.Register(t, w.alice, b), Node: "cn1",
		Job: manifest.Job{Cluster: w.Cluster, ID: 7, ArrayTask: -1}, Attest: w.Attest("alice", 1000, nil, nil)}
	return w
}

// front returns a TLS server before the service: a relay, or an attacker.
func (w *world) front(t *testing.T, handle func(relay http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	u, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.CA) {
		t.Fatal("no CA")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: tr}
	s := httptest.NewTLSServer(handle(http.StripPrefix("/relay", p)))
	t.Cleanup(s.Close)
	return s
}

func caOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func newClient(t *testing.T, o keyclient.Options) *keyclient.Client {
	t.Helper()
	c, err := keyclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestReleaseThroughRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.front(t, func(h http.Handler) http.Handler { return h })
	c := newClient(t, keyclient.Options{URL: s.URL + "/relay", CA: caOf(s), ServiceID: w.ID})
	got, err := c.Release(t.Context(), w.req)
	if err != nil || string(got.Keys[w.vol.ID].Key) != string(w.vol.Key) {
		t.Fatalf("release: %v", err)
	}
	pub := got.S.Public().(ed25519.PublicKey)
	if _, err := keyclient.CheckStatement(w.StatementKey, got.StatementJWS, w.ID, w.req.Digest, w.req.Job, "cn1", pub); err != nil {
		t.Error(err)
	}
	if _, err := c.Release(t.Context(), w.req); !errors.Is(err, keyclient.ErrConflict) {
		t.Errorf("second claim: %v", err)
	}
}

// TestRelayThatLies has the relay alter what the service answers.
func TestRelayThatLies(t *testing.T) {
	t.Parallel()
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	strangersID := keyapi.ServiceID("localhost", stranger.Public().(ed25519.PublicKey))
	for name, tc := range map[string]struct {
		service func(*keyapi.Service)
		release func(w *world, r *keyapi.Released)
		want    error
	}{
		"control": {want: nil},
		"another key": {service: func(s *keyapi.Service) { s.StatementKey = manifest.EncodeKey(stranger.Public().(ed25519.PublicKey)) },
			want: keyclient.ErrService},
		"another service": {service: func(s *keyapi.Service) {
			s.ID, s.StatementKey = strangersID, manifest.EncodeKey(stranger.Public().(ed25519.PublicKey))
		}, want: keyclient.ErrService},
		"altered keys":      {release: func(_ *world, r *keyapi.Released) { r.Sealed[len(r.Sealed)-1] ^= 1 }, want: keyclient.ErrAnswer},
		"no keys":           {release: func(_ *world, r *keyapi.Released) { r.Sealed = nil }, want: keyclient.ErrAnswer},
		"no head":           {release: func(_ *world, r *keyapi.Released) { r.AuditHead = "" }, want: keyclient.ErrAnswer},
		"head as statement": {release: func(_ *world, r *keyapi.Released) { r.Statement = r.AuditHead }, want: keyclient.ErrAnswer},
		"forged statement": {release: func(w *world, r *keyapi.Released) {
			r.Statement, _ = manifest.SignJWS(manifest.TypeStatement, stranger, manifest.Statement{
				Service: w.ID, Manifest: w.req.Digest, Job: w.req.Job, Node: "cn1", UID: 1, User: "alice", Tier: manifest.TierA, Issued: time.Now()})
		}, want: keyclient.ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.front(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					body := rec.Body.Bytes()
					switch {
					case strings.HasSuffix(r.URL.Path, "/v1/service") && tc.service != nil:
						body = alter(t, body, tc.service)
					case strings.HasSuffix(r.URL.Path, "/v1/release") && tc.release != nil:
						body = alter(t, body, func(x *keyapi.Released) { tc.release(w, x) })
					}
					rw.WriteHeader(rec.Code)
					rw.Write(body)
				})
			})
			c := newClient(t, keyclient.Options{URL: s.URL + "/relay", CA: caOf(s), ServiceID: w.ID, Retries: -1})
			got, err := c.Release(t.Context(), w.req)
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) || err != nil && len(got.Keys) > 0 {
				t.Errorf("release: %v; want %v", err, tc.want)
			}
		})
	}
}

func alter[T any](t *testing.T, b []byte, change func(*T)) []byte {
	t.Helper()
	var v T
	if err := manifest.DecodeJSON(b, &v); err != nil {
		t.Error(err)
		return b
	}
	change(&v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return out
}

// TestWrongStatement refuses genuine statements about something else.
func TestWrongStatement(t *testing.T) {
	t.Parallel()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := manifest.Statement{Service: "svc", Manifest: manifest.DigestOf([]byte("m")), Job: manifest.Job{Cluster: "c", ID: 1, ArrayTask: -1},
		Node: "cn1", UID: 1000, User: "alice", Tier: manifest.TierB2, S: manifest.EncodeKey(pub), Issued: time.Now()}
	for name, change := range map[string]func(*manifest.Statement){
		"": func(*manifest.Statement) {}, "service": func(s *manifest.Statement) { s.Service = "x" },
		"manifest": func(s *manifest.Statement) { s.Manifest = manifest.DigestOf(nil) }, "job": func(s *manifest.Statement) { s.Job.ID++ },
		"restart": func(s *manifest.Statement) { s.Job.Restart++ }, "node": func(s *manifest.Statement) { s.Node = "cn2" },
		"S": func(s *manifest.Statement) { s.S = manifest.EncodeKey(make([]byte, 32)) },
	} {
		st := good
		change(&st)
		jws, err := manifest.SignJWS(manifest.TypeStatement, priv, st)
		if err != nil {
			t.Fatal(err)
		}
		_, err = keyclient.CheckStatement(pub, jws, good.Service, good.Manifest, good.Job, good.Node, pub)
		if (name == "") != (err == nil) || err != nil && !errors.Is(err, keyclient.ErrAnswer) {
			t.Errorf("another %q: %v", name, err)
		}
	}
}

// TestBusyAndBack has the service refuse for a while; the client comes back.
func TestBusyAndBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tc := range map[string]struct {
		status int
		code   string
		path   string
		want   error
	}{
		"429 for a nonce":   {429, keyapi.CodeTooMany, "/v1/nonces", keyclient.ErrTooMany},
		"429 for a release": {429, keyapi.CodeTooMany, "/v1/release", keyclient.ErrTooMany},
		"503 for a release": {503, keyapi.CodeUnavailable, "/v1/release", keyclient.ErrUnavailable},
		"502 by a relay":    {502, "", "/v1/service", keyclient.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int32
			s := w.front(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if !strings.HasSuffix(r.URL.Path, tc.path) || left.Add(-1) < 0 {
						h.ServeHTTP(rw, r)
						return
					}
					rw.Header().Set("Retry-After", "0")
					rw.WriteHeader(tc.status)
					json.NewEncoder(rw).Encode(keyapi.Error{Code: tc.code, Message: "busy"})
				})
			})
			m, b := w.Manifest(t, nil, w.vol)
			r := w.req
			r.Manifest = m
			r.Digest, r.Job.ID = w.Register(t, w.alice, b), uint32(100+tc.status+len(name))
			o := keyclient.Options{URL: s.URL + "/relay", CA: caOf(s), ServiceID: w.ID, Retries: -1}
			left.Store(1)
			if _, err := newClient(t, o).Release(t.Context(), r); !errors.Is(err, tc.want) {
				t.Errorf("without retries: %v", err)
			}
			o.Retries = 3
			left.Store(2)
			if _, err := newClient(t, o).Release(t.Context(), r); err != nil {
				t.Errorf("with retries: %v", err)
			}
			o.Retries = 100
			left.Store(1000)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := newClient(t, o).Release(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("retries outlive their context: %v", err)
			}
		})
	}
}

// TestServiceThatComesBack stops the service and starts it while a client asks.
func TestServiceThatComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Stop(t)
	c := newClient(t, keyclient.Options{URL: w.URL, CA: w.CA, ServiceID: w.ID, Retries: 30})
	if _, err := w.Client(t, nil).Service(t.Context()); !errors.Is(err, keyclient.ErrUnavailable) {
		t.Fatalf("stopped service: %v", err)
	}
	done := make(chan error)
	go func() { _, err := c.Release(t.Context(), w.req); done <- err }()
	w.Run(t)
	if err := <-done; err != nil {
		t.Errorf("release from a service that came back: %v", err)
	}
}

func TestPinnedCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	c := newClient(t, keyclient.Options{URL: w.URL, CA: caOf(other)})
	if _, err := c.Service(t.Context()); !errors.Is(err, keyclient.ErrService) {
		t.Errorf("another authority: %v", err)
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	old.StartTLS()
	t.Cleanup(old.Close)
	c = newClient(t, keyclient.Options{URL: old.URL, CA: caOf(old), Retries: -1})
	if _, err := c.Service(t.Context()); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	c = newClient(t, keyclient.Options{URL: w.URL, CA: w.CA, ServiceID: "keys#" + strings.Repeat("0", 32)})
	if _, err := c.Service(t.Context()); !errors.Is(err, keyclient.ErrService) {
		t.Errorf("another service id: %v", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	w := httptest.NewTLSServer(http.RedirectHandler("https://127.0.0.1:1/", http.StatusFound))
	t.Cleanup(w.Close)
	for _, u := range []string{"", "http://h", "https://", "https://u:p@h", "https://h/?q", "https://h/#f", "ftp://h", ":"} {
		if _, err := keyclient.New(keyclient.Options{URL: u, CA: caOf(w)}); err == nil {
			t.Errorf("URL %q is accepted", u)
		}
	}
	if _, err := keyclient.New(keyclient.Options{URL: w.URL, CA: []byte("nothing")}); err == nil {
		t.Error("a CA without a certificate is accepted")
	}
	for _, o := range []keyclient.Options{{URL: w.URL}, {URL: w.URL, CA: caOf(w), SystemRoots: true}} {
		if _, err := keyclient.New(o); err == nil {
			t.Errorf("a CA of %d bytes, with the system's authorities %v, is accepted", len(o.CA), o.SystemRoots)
		}
	}
	if _, err := newClient(t, keyclient.Options{URL: w.URL, CA: caOf(w)}).Nonce(t.Context()); !errors.Is(err, keyclient.ErrForeign) {
		t.Errorf("a redirection: %v", err)
	}
}

func TestNoSigner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.Client(t, nil).Enrolled(t.Context()); !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Errorf("a signed call without a key: %v", err)
	}
}

// TestHostileMessage keeps what drives a terminal out of errors.
func TestHostileMessage(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(403)
		json.NewEncoder(rw).Encode(keyapi.Error{Code: keyapi.CodePolicy, Message: "\x1b[2J\u009b" + strings.Repeat("x", 5000)})
	}))
	t.Cleanup(s.Close)
	_, err := newClient(t, keyclient.Options{URL: s.URL, CA: caOf(s)}).Nonce(t.Context())
	if !errors.Is(err, keyclient.ErrPolicy) || strings.ContainsAny(err.Error(), "\x1b\u009b") || len(err.Error()) > 1100 {
		t.Errorf("%.80q", err)
	}
}

func TestAuditHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, jws, err := w.Client(t, w.alice).AuditHead(t.Context())
	if err != nil || jws == "" || first.Service != w.ID {
		t.Fatalf("%+v, %v", first, err)
	}
	second, _, err := w.Client(t, w.alice).AuditHead(t.Context())
	if err != nil || second.Seq != first.Seq+1 || second.Hash == first.Hash {
		t.Errorf("%+v after %+v, %v", second, first, err)
	}
}
