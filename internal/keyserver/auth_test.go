package keyserver_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// rawRequest is a request that a test can spoil after it was signed.
type rawRequest struct {
	method, path, namespace, service string
	body                             []byte
	digest                           []string // values of the header; nil for that of body
	at                               time.Time
	nonce                            string
	signer                           ssh.Signer
	after                            func(*rawRequest)
	unsigned                         bool
}

// send returns the status, and the error if there is one.
func (s *site) send(t *testing.T, q rawRequest) (int, keyapi.Error) {
	t.Helper()
	status, b := s.raw(t, q)
	var e keyapi.Error
	if status != http.StatusOK {
		if err := manifest.DecodeJSON(b, &e); err != nil {
			t.Errorf("status %d with body %.200q", status, b)
		}
	}
	return status, e
}

// sign signs a request as it is. The headers that it returns are of what was made of
// it meanwhile.
func (q *rawRequest) sign(t *testing.T) (header func() http.Header) {
	t.Helper()
	digest := manifest.DigestOf(q.body)
	sig, err := sshid.SignSSH(q.signer, q.namespace, keyapi.SigningInput(q.service, q.method, q.path, digest, q.at.Unix(), q.nonce))
	if err != nil {
		t.Fatal(err)
	}
	if q.digest == nil {
		q.digest = []string{keyapi.ContentDigest(digest)}
	}
	return func() http.Header {
		h := http.Header{keyapi.HeaderDigest: q.digest}
		h.Set(keyapi.HeaderSignature, base64.StdEncoding.EncodeToString(sig))
		h.Set(keyapi.HeaderTime, strconv.FormatInt(q.at.Unix(), 10))
		h.Set(keyapi.HeaderNonce, q.nonce)
		return h
	}
}

func (s *site) raw(t *testing.T, q rawRequest) (status int, body []byte) {
	t.Helper()
	header := q.sign(t)
	if q.after != nil {
		q.after(&q)
	}
	req, err := http.NewRequestWithContext(t.Context(), q.method, s.URL+q.path, bytes.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if !q.unsigned {
		req.Header = header()
	}
	res, err := s.rawClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, b
}

func (s *site) rawClient(t *testing.T) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CA) {
		t.Fatal("no CA")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestRequestSignatures(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	elsewhere, narrow, late := keyservertest.NewSigner(t), keyservertest.NewSigner(t), keyservertest.NewSigner(t)
	s.Enrol(t, "alice", narrow.PublicKey(), `namespaces="sealbatch-manifest,sealbatch-info"`)
	s.Enrol(t, "alice", late.PublicKey(), `valid-before="20200101"`)
	none, other := keyapi.ContentDigest(manifest.DigestOf(nil)), keyapi.ContentDigest(manifest.DigestOf([]byte("{}")))
	used := keyservertest.RandomHex(16)
	for _, tc := range []struct {
		name   string
		change func(*rawRequest)
		want   int
	}{
		{"control", func(q *rawRequest) { q.nonce = used }, 200},
		{"replayed", func(q *rawRequest) { q.nonce = used }, 401},
		{"foreign namespace", func(q *rawRequest) { q.namespace = manifest.NamespaceManifest }, 401},
		{"unknown key", func(q *rawRequest) { q.signer = elsewhere }, 401},
		{"key for other namespaces", func(q *rawRequest) { q.signer = narrow }, 401},
		{"key past its time", func(q *rawRequest) { q.signer = late }, 401},
		{"other service", func(q *rawRequest) { q.service = "other" }, 401},
		{"clock slow", func(q *rawRequest) { q.at = q.at.Add(-keyapi.MaxSkew - 5*time.Second) }, 401},
		{"clock fast", func(q *rawRequest) { q.at = q.at.Add(keyapi.MaxSkew + 5*time.Second) }, 401},
		{"before the start", func(q *rawRequest) { q.at = q.at.Add(-time.Minute) }, 401},
		{"clock a little fast", func(q *rawRequest) { q.at = q.at.Add(keyapi.MaxSkew / 2) }, 200},
		{"nonce malformed", func(q *rawRequest) { q.nonce = "xyz" }, 401},
		{"unsigned", func(q *rawRequest) { q.unsigned = true }, 401},
		{"other path", func(q *rawRequest) { q.after = func(q *rawRequest) { q.path = "/v1/audit/head" } }, 401},
		{"query added", func(q *rawRequest) { q.after = func(q *rawRequest) { q.path += "?x=1" } }, 401},
		{"body added", func(q *rawRequest) { q.after = func(q *rawRequest) { q.body = []byte("{}") } }, 401},
		{"digest altered", func(q *rawRequest) { q.after = func(q *rawRequest) { q.digest = []string{other} } }, 401},
		{"body and digest altered", func(q *rawRequest) {
			q.after = func(q *rawRequest) { q.body, q.digest = []byte("{}"), []string{other} }
		}, 401},
		{"no digest", func(q *rawRequest) { q.digest = []string{} }, 401},
		{"two digests", func(q *rawRequest) { q.digest = []string{none, none} }, 401},
		{"digest malformed", func(q *rawRequest) { q.digest = []string{none + ", sha-512=:AA==:"} }, 401},
		{"time altered", func(q *rawRequest) { q.after = func(q *rawRequest) { q.at = q.at.Add(2 * time.Second) } }, 401},
		{"nonce altered", func(q *rawRequest) { q.after = func(q *rawRequest) { q.nonce = keyservertest.RandomHex(16) } }, 401},
	} {
		q := rawRequest{method: "GET", path: "/v1/secrets", namespace: keyapi.Namespace, service: s.ID, at: time.Now(),
			nonce: keyservertest.RandomHex(16), signer: s.alice}
		tc.change(&q)
		status, e := s.send(t, q)
		if status != tc.want || status == 401 && (e.Code != keyapi.CodeUnauthorised || e.Message == "") {
			t.Errorf("%s: status %d, %+v; want %d", tc.name, status, e, tc.want)
		}
	}
}
