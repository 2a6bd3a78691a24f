package keyserver_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/gate"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// large returns the registration of a job of more than 64 KiB.
func (s *site) large(t *testing.T, signer ssh.Signer) keyapi.Manifest {
	t.Helper()
	v := s.Deposit(t, signer, keyservertest.RandomHex(8), manifest.KindDataset, keyservertest.Policy("alice"))
	_, b := s.Manifest(t, func(m *manifest.Manifest) { m.Recipients = []string{strings.Repeat("x", 2*gate.SmallBody)} }, v)
	return keyapi.Manifest{Manifest: b, Private: keyservertest.PrivateOf(t, b), Uses: 1,
		Signature: string(keyservertest.Sign(t, signer, manifest.NamespaceManifest, b))}
}

// registration is a request that registers a large job, to be sent by hand.
func (s *site) registration(t *testing.T, m keyapi.Manifest, signer ssh.Signer) rawRequest {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return rawRequest{method: "POST", path: "/v1/manifests", namespace: keyapi.Namespace, service: s.ID, at: time.Now(),
		nonce: keyservertest.RandomHex(16), signer: signer, body: body}
}

// announced is a request of which the headers were sent.
type announced struct {
	*tls.Conn
	answers *bufio.Reader
	request *http.Request
}

// announce sends a request's headers only.
func (s *site) announce(t *testing.T, q rawRequest, length string) announced {
	t.Helper()
	header := q.sign(t)
	if q.after != nil {
		q.after(&q)
	}
	h := header()
	if q.unsigned {
		h = http.Header{}
	}
	raw, err := s.from(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, s.tlsConfig(t))
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n%s", q.method, q.path, length)
	h.Write(&b)
	b.WriteString("\r\n")
	if _, err := c.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	return announced{c, bufio.NewReader(c), &http.Request{Method: q.method}}
}

// answer returns the status and, if it is no go-ahead, what it says, and reports whether
// the connection is closed then.
func (a announced) answer(t *testing.T) (status int, e keyapi.Error, closed bool) {
	t.Helper()
	res, err := http.ReadResponse(a.answers, a.request)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusContinue {
		return res.StatusCode, e, false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK && manifest.DecodeJSON(b, &e) != nil {
		t.Errorf("status %d with body %.200q", res.StatusCode, b)
	}
	if res.Close {
		a.Close()
	}
	return res.StatusCode, e, res.Close
}

// TestLargeBodiesOfStrangers announces large bodies and sends nothing of them: who has not
// signed their digest is refused, with or without being asked whether to go on.
func TestLargeBodiesOfStrangers(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	elsewhere := keyservertest.NewSigner(t)
	none := keyapi.ContentDigest(manifest.DigestOf(nil))
	for name, tc := range map[string]struct {
		spoil func(*rawRequest)
		says  string
	}{
		"not signed":       {func(q *rawRequest) { q.unsigned = true }, "is not signed"},
		"unknown key":      {func(q *rawRequest) { q.signer = elsewhere }, "belongs to no account"},
		"other namespace":  {func(q *rawRequest) { q.namespace = manifest.NamespaceManifest }, "request signature"},
		"no digest":        {func(q *rawRequest) { q.digest = []string{} }, keyapi.HeaderDigest},
		"another digest":   {func(q *rawRequest) { q.after = func(q *rawRequest) { q.digest = []string{none} } }, "request signature"},
		"digest malformed": {func(q *rawRequest) { q.digest = []string{strings.Trim(none, ":")} }, keyapi.HeaderDigest},
		"two digests":      {func(q *rawRequest) { q.digest = []string{none, none} }, keyapi.HeaderDigest},
		"clock slow":       {func(q *rawRequest) { q.at = q.at.Add(-time.Hour) }, "clock"},
		"nonce malformed":  {func(q *rawRequest) { q.nonce = "xyz" }, keyapi.HeaderNonce},
	} {
		for _, length := range []string{
			fmt.Sprintf("Content-Length: %d\r\n", gate.SmallBody+1),
			fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", keyapi.MaxBody),
			"Transfer-Encoding: chunked\r\n",
		} {
			q := s.registration(t, keyapi.Manifest{}, s.alice)
			tc.spoil(&q)
			status, e, closed := s.announce(t, q, length).answer(t)
			if status != http.StatusUnauthorized || !strings.Contains(e.Message, tc.says) || !closed {
				t.Errorf("%s, %q: status %d, %+v, connection closed: %v", name, length, status, e, closed)
			}
		}
	}
	s.wantAudited(t, `"event":"manifest.register","outcome":"refused"`, "the request is not signed")
	m := s.large(t, s.alice)
	_, err := s.Client(t, elsewhere).RegisterManifest(t.Context(), m.Manifest, []byte(m.Signature), m.Private)
	if !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Errorf("a client with a key that is not enrolled: %v", err)
	}
}

// TestLargeBodiesOfAccounts has accounts announce and send large bodies: one at a time of
// each, without using up the nonce before the body is there, and the one that was signed.
func TestLargeBodiesOfAccounts(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	length := func(q rawRequest) string {
		return fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", len(q.body))
	}
	goOn := func(q rawRequest) announced {
		a := s.announce(t, q, length(q))
		if status, e, _ := a.answer(t); status != http.StatusContinue {
			t.Fatalf("status %d, %+v", status, e)
		}
		return a
	}
	q := s.registration(t, s.large(t, s.alice), s.alice)
	first := goOn(q)
	again := s.registration(t, s.large(t, s.alice), s.alice)
	if status, e, closed := s.announce(t, again, length(again)).answer(t); status != http.StatusTooManyRequests || !closed {
		t.Errorf("a second one of the account: status %d, %+v, connection closed: %v", status, e, closed)
	}
	bobs := s.registration(t, s.large(t, s.bob), s.bob)
	other := goOn(bobs)
	if _, err := s.Client(t, s.alice).GetSecret(t.Context(), keyservertest.RandomHex(16)); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("a small request of the account meanwhile: %v", err)
	}
	for name, a := range map[string]struct {
		announced
		sent string
		want int
	}{
		"alice's":                 {first, string(q.body), http.StatusOK},
		"another body than bob's": {other, strings.Repeat("x", len(bobs.body)), http.StatusUnauthorized},
	} {
		if _, err := io.WriteString(a, a.sent); err != nil {
			t.Fatal(err)
		}
		if status, e, _ := a.answer(t); status != a.want {
			t.Errorf("%s: status %d, %+v", name, status, e)
		}
	}
	last := goOn(again)
	if _, err := last.Write(again.body); err != nil {
		t.Fatal(err)
	}
	if status, e, _ := last.answer(t); status != http.StatusOK {
		t.Errorf("after the first: status %d, %+v", status, e)
	}
	replay := goOn(q)
	if _, err := replay.Write(q.body); err != nil {
		t.Fatal(err)
	}
	if status, e, _ := replay.answer(t); status != http.StatusUnauthorized || !strings.Contains(e.Message, "nonce is used up") {
		t.Errorf("the first once more: status %d, %+v", status, e)
	}
}
