package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// place is somebody on a host: who makes credentials there and whence requests come.
type place struct{ host, user string }

var aliceOnCN1 = place{"cn1", "alice"}

// endpoint is a service: where it listens, and the name in its certificate.
type endpoint struct{ address, name string }

var (
	keyService    = endpoint{"keys:8443", "keys"}
	loginVerifier = endpoint{"login:8444", "login"}
)

// dial connects from the place's own network. address is one of the cluster's
// hosts and a port.
func (p place) dial(ctx context.Context, address string) (net.Conn, error) {
	return p.dialFrom(ctx, new(net.Dialer), address)
}

// dialFrom is dial with a dialer that may name one of several addresses of the place's.
func (p place) dialFrom(ctx context.Context, d *net.Dialer, address string) (conn net.Conn, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	err = p.inside(func() (err error) {
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(addresses[host], port))
		return err
	})
	return conn, err
}

// inside does something in the place's own network: on a thread that enters it
// and ends afterwards.
func (p place) inside(do func() error) error {
	ns, err := os.Open("/run/netns/sealbatch-" + os.Getenv("SEALBATCH_CLUSTER") + "-" + p.host)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no other use
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// addresses of the cluster's hosts (testcluster/README.md).
var addresses = map[string]string{"laptop": "10.77.0.2", "login": "10.77.0.3", "cn1": "10.77.0.4", "cn2": "10.77.0.5",
	"keys": "10.77.0.6", "cn3": "10.77.0.7"}

// answer is what a service replied.
type answer struct {
	status int
	body   []byte
}

// authorities are the certificates of both services, as the test cluster made them.
func authorities(t *testing.T) *x509.CertPool {
	t.Helper()
	known.Lock()
	defer known.Unlock()
	if known.pool == nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(must(t, "keys", "root", "cat", "/etc/sealbatch/ca.crt", "/etc/sealbatch/verifier-ca.crt"))) {
			t.Fatal("the services' authorities hold no certificate")
		}
		known.pool = pool
	}
	return known.pool
}

var known struct {
	sync.Mutex
	pool *x509.CertPool
}

// ask makes one request from the place: POST if there is a body, else GET.
func (p place) ask(t *testing.T, to endpoint, path string, body any) answer {
	t.Helper()
	r := plainRequest{method: http.MethodGet, path: path}
	if body != nil {
		r.method = http.MethodPost
		var err error
		if r.body, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	return p.send(t, to, r)
}

// plainRequest is a request as it travels inside TLS.
type plainRequest struct {
	method, path string
	body         []byte
	header       http.Header
}

// send makes a request from the place.
func (p place) send(t *testing.T, to endpoint, r plainRequest) answer {
	t.Helper()
	tr := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, to.address) },
		TLSClientConfig:   &tls.Config{RootCAs: authorities(t), ServerName: to.name, MinVersion: tls.VersionTLS13},
		DisableKeepAlives: true,
		// What is refused before its body is read is answered, and the connection closed.
		ExpectContinueTimeout: 10 * time.Second,
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, "https://"+to.address+r.path, bytes.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	if len(r.body) > 64<<10 {
		req.Header.Set("Expect", "100-continue")
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s@%s asks %s%s: %v", p.user, p.host, to.address, r.path, err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(io.LimitReader(res.Body, keyapi.MaxBody))
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, out}
}

// into decodes an answer that has to be a success.
func (a answer) into(t *testing.T, v any) {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if err := manifest.DecodeJSON(a.body, v); err != nil {
		t.Fatal(err)
	}
}

// denied requires a refusal. It is decoded strictly, so that there is nothing
// in it but the refusal: no voucher, no sealed keys.
func (a answer) denied(t *testing.T, status int, code, want string) {
	t.Helper()
	var e keyapi.Error
	if err := manifest.DecodeJSON(a.body, &e); err != nil || a.status != status || e.Code != code || !strings.Contains(e.Message, want) {
		t.Errorf("status %d: %.300s\nwant a refusal, %d %s: %s", a.status, a.body, status, code, want)
	}
}

// munge makes a credential over payload. Options are the honest ones unless given.
func (p place) munge(t *testing.T, payload []byte, options ...string) string {
	t.Helper()
	if options == nil {
		options = []string{"--restrict-uid=slurm", "--ttl=60"}
	}
	r := run(t.Context(), p.host, p.user, bytes.NewReader(payload), append([]string{"munge"}, options...)...)
	if r.code != 0 || !strings.HasPrefix(r.out, "MUNGE:") {
		t.Fatalf("munge %q by %s@%s: %s", options, p.user, p.host, r)
	}
	return strings.TrimSpace(r.out)
}

// claimant is a process that claims keys, step by step, as a supervisor does at once.
type claimant struct {
	at       place
	keys     endpoint // the key service
	via      endpoint // takes the release: the key service, or a verifier that relays
	verifier endpoint
	service  keyapi.Service
	claim    keyapi.Claim
	e        hpke.PrivateKey
	s        ed25519.PrivateKey
}

// newClaimant claims a manifest's keys for a job on a node, with keys and a nonce of its own.
func newClaimant(t *testing.T, at place, digest string, job uint32, node string) *claimant {
	t.Helper()
	return claimantAt(t, keyService, loginVerifier, at, digest, job, node)
}

// claimantAt is newClaimant at services of one's choice.
func claimantAt(t *testing.T, keys, verifier endpoint, at place, digest string, job uint32, node string) *claimant {
	t.Helper()
	c := &claimant{at: at, keys: keys, via: keys, verifier: verifier}
	at.ask(t, keys, "/v1/service", nil).into(t, &c.service)
	c.claim = keyapi.Claim{Manifest: parseDigest(t, digest), Job: manifest.Job{Cluster: "testcluster", ID: job, ArrayTask: -1}, Node: node}
	c.claim.Nonce = at.nonceOf(t, keys)
	c.renewE(t)
	c.renewS(t)
	return c
}

func parseDigest(t *testing.T, s string) manifest.Digest {
	t.Helper()
	d, err := manifest.ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (p place) nonce(t *testing.T) []byte {
	t.Helper()
	return p.nonceOf(t, keyService)
}

func (p place) nonceOf(t *testing.T, keys endpoint) []byte {
	t.Helper()
	var n keyapi.Nonce
	p.ask(t, keys, "/v1/nonces", struct{}{}).into(t, &n)
	return n.Nonce
}

func (c *claimant) renewE(t *testing.T) {
	t.Helper()
	var err error
	if c.e, err = hpke.MLKEM768X25519().GenerateKey(); err != nil {
		t.Fatal(err)
	}
	c.claim.E = c.e.PublicKey().Bytes()
}

func (c *claimant) renewS(t *testing.T) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.s, c.claim.S = key, pub
}

// credential covers the claim as it is now.
func (c *claimant) credential(t *testing.T, options ...string) string {
	t.Helper()
	return c.at.munge(t, keyapi.MungePayload(c.service.ID, c.claim), options...)
}

// vouch shows a credential for the claim as it is now to a verifier.
func (c *claimant) vouch(t *testing.T, credential string) answer {
	t.Helper()
	return c.vouchAt(t, c.verifier, credential)
}

func (c *claimant) vouchAt(t *testing.T, verifier endpoint, credential string) answer {
	t.Helper()
	return c.at.ask(t, verifier, "/v1/vouch", keyapi.VouchRequest{Service: c.service.ID, Claim: c.claim, Credential: credential})
}

func (a answer) voucher(t *testing.T) string {
	t.Helper()
	var v keyapi.VouchResponse
	a.into(t, &v)
	return v.Voucher
}

// honestVoucher is what an honest claimant is given.
func (c *claimant) honestVoucher(t *testing.T) string {
	t.Helper()
	return c.vouch(t, c.credential(t)).voucher(t)
}

// release claims the keys for a voucher with proof of possession of S.
func (c *claimant) release(t *testing.T, voucher string) answer {
	t.Helper()
	return c.releaseWith(t, voucherEvidence(t, voucher), c.s)
}

func voucherEvidence(t *testing.T, voucher string) keyapi.Evidence {
	t.Helper()
	return evidence(t, keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: voucher})
}

func evidence(t *testing.T, typ string, payload any) keyapi.Evidence {
	t.Helper()
	ev, err := keyapi.NewEvidence(typ, payload)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func (c *claimant) releaseWith(t *testing.T, ev keyapi.Evidence, prover ed25519.PrivateKey) answer {
	t.Helper()
	d := keyapi.ClaimDigest(c.service.ID, c.claim)
	return c.at.ask(t, c.via, "/v1/release", keyapi.Release{Claim: c.claim, Evidence: ev, Proof: ed25519.Sign(prover, d[:])})
}

// gets requires that the keys came: of the image and of the dataset, sealed to
// E, with a statement that says who was attested where.
func (c *claimant) gets(t *testing.T, a answer) {
	t.Helper()
	var out keyapi.Released
	a.into(t, &out)
	b, err := keyapi.OpenBundle(c.e, c.service.ID, c.claim, out.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Keys) != 2 || len(b.Keys[0].Key) != keyapi.SecretKeyLen || bytes.Equal(b.Keys[0].Key, b.Keys[1].Key) {
		t.Errorf("%d keys came, not two different ones", len(b.Keys))
	}
	key, err := manifest.DecodeKey(c.service.StatementKey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := keyclient.CheckStatement(key, out.Statement, c.service.ID, c.claim.Manifest, c.claim.Job, c.claim.Node, c.claim.S)
	if err != nil || st.User != "alice" || st.UID != 2001 || st.Tier != manifest.TierB2 {
		t.Errorf("statement about %s (uid %d) at tier %s, %v", st.User, st.UID, st.Tier, err)
	}
}

// audited verifies the key service's log and holds what it has about a
// manifest's releases against want: "released NODE" or "refused NODE REASON",
// in this order, REASON a part of what stands there.
func audited(t *testing.T, digest string, want ...string) {
	t.Helper()
	out := must(t, "keys", "root", "sh", "-c",
		`sealbatch audit verify /etc/sealbatch/data/audit.log --key "$(cat /etc/sealbatch/statement.pub)" >&2 &&
			cat /etc/sealbatch/data/audit.log`)
	var got []string
	for line := range strings.Lines(out) {
		var l struct{ Entry audit.Event }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if e := l.Entry; e.Event == "release" && e.Manifest == digest {
			got = append(got, strings.TrimSpace(fmt.Sprint(e.Outcome, " ", e.Node, " ", e.Reason)))
		}
	}
	ok := len(got) == len(want)
	for i := 0; ok && i < len(want); i++ {
		head, reason := want[i], ""
		if f := strings.SplitN(want[i], " ", 3); len(f) == 3 {
			head, reason = f[0]+" "+f[1], f[2]
		}
		ok = strings.HasPrefix(got[i], head) && strings.Contains(got[i], reason)
	}
	if !ok {
		t.Errorf("the audit log has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
