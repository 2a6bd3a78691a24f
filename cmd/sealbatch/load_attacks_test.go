package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// assault is what the attackers, a process of their own, are told on standard
// input. They print a line when they are at it with every call, go on until the
// input ends, and print how their calls were answered.
type assault struct {
	Address   string // of the key service
	CA        []byte // PEM
	Service   string // its id
	Accounts  []hostile
	Manifest  []byte // of the largest kind, with its private part
	Private   []byte
	Addresses int     // from which they come, 127.0.1.1 and on
	PerSecond float64 // calls of all of them
}

// hostile is an enrolled account with what its calls are made of.
type hostile struct {
	Seed     []byte // of its SSH key
	Volume   string // one of its own
	Manifest manifest.Digest
	Refused  manifest.Digest // a manifest whose volume its policy gives to nobody here
	Large    string          // the account's signature of the assault's manifest
}

// attackers is the program.
func attackers() {
	var a assault
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&a); err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	counts := a.run(ctx)
	if err := json.NewEncoder(os.Stdout).Encode(counts); err != nil {
		panic(err)
	}
}

// run attacks until ctx ends and returns how often each call was answered how.
func (a *assault) run(ctx context.Context) map[string]map[string]int {
	counts := map[string]map[string]int{}
	begun := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var turn atomic.Int64
	limit := rate.NewLimiter(rate.Limit(a.PerSecond), 20)
	for i := range 2 * a.Addresses {
		c := a.caller(i)
		wg.Go(func() {
			defer c.http.CloseIdleConnections()
			for limit.Wait(ctx) == nil {
				n := int(turn.Add(1))
				k := calls[n%(len(calls)-1)]
				if i%10 == 0 { // the last call, which others would wait for
					k = calls[len(calls)-1]
				}
				mu.Lock()
				if begun[k.name] = true; len(begun) == len(calls) {
					begun[""] = true // once
					fmt.Println("ready")
				}
				mu.Unlock()
				c.as(a.Accounts[n/len(calls)%len(a.Accounts)])
				status, err := k.make(c, ctx)
				answer := strconv.Itoa(status)
				switch {
				case ctx.Err() != nil:
					answer = "at work"
				case err != nil:
					answer = "no answer"
				}
				mu.Lock()
				if counts[k.name] == nil {
					counts[k.name] = map[string]int{}
				}
				counts[k.name][answer]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return counts
}

// caller makes an attacker's calls from one address.
type caller struct {
	*assault
	hostile
	http   *http.Client
	dial   net.Dialer
	tls    *tls.Config
	signer ssh.Signer
	tokens map[manifest.Digest]string // for what is refused
	slow   []net.Conn
}

func (a *assault) caller(i int) *caller {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.CA)
	c := &caller{assault: a, tokens: map[manifest.Digest]string{},
		tls: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}}
	if a.Addresses > 0 {
		c.dial.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%a.Addresses))}
	}
	c.http = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: c.dial.DialContext, TLSClientConfig: c.tls, ExpectContinueTimeout: 20 * time.Second}}
	return c
}

// as has the next calls be of an account.
func (c *caller) as(h hostile) {
	c.hostile = h
	c.signer = sshSigner(ed25519.NewKeyFromSeed(h.Seed))
}

// calls are what attackers do, the dearest of each kind.
var calls = []struct {
	name string
	by   string
	make func(*caller, context.Context) (status int, err error)
}{
	{"GET /v1/service", "anybody", func(c *caller, ctx context.Context) (int, error) { return c.plain(ctx, "GET", "/v1/service", nil, nil) }},
	{"a TLS handshake", "anybody", (*caller).handshake},
	{"a body that does not end", "anybody", (*caller).slowBody},
	{"POST /v1/nonces", "anybody", func(c *caller, ctx context.Context) (int, error) { return c.plain(ctx, "POST", "/v1/nonces", nil, nil) }},
	{"a bad signature", "anybody", (*caller).badSignature},
	{"a bad signature over 4 MiB, which are announced", "anybody", (*caller).strangersLarge},
	{"a claim of 60 KiB with false evidence", "anybody", (*caller).falseEvidence},
	{"a claim that is refused, with a token that is good", "whoever has a token", (*caller).refusedClaim},
	{"token, nonce and claim: a release", "an account", (*caller).claimed},
	{"POST /v1/tokens", "an account", (*caller).newToken},
	{"GET /v1/secrets, a page of 500", "an account", func(c *caller, ctx context.Context) (int, error) {
		return c.signed(ctx, "GET", "/v1/secrets", nil, nil)
	}},
	{"GET /v1/secrets/{volume}", "an account", func(c *caller, ctx context.Context) (int, error) {
		return c.signed(ctx, "GET", "/v1/secrets/"+c.Volume, nil, nil)
	}},
	{"a policy of 16 KiB", "an account", func(c *caller, ctx context.Context) (int, error) {
		return c.signed(ctx, "PUT", "/v1/secrets/"+c.Volume+"/policy", widest("mallory"), nil)
	}},
	{"GET /v1/secrets/{volume}/log", "an account", func(c *caller, ctx context.Context) (int, error) {
		return c.signed(ctx, "GET", "/v1/secrets/"+c.Volume+"/log", nil, nil)
	}},
	{"a deposit with a policy of 16 KiB", "an account", (*caller).deposit},
	{"a job's registration of 2.8 MB", "an account", func(c *caller, ctx context.Context) (int, error) {
		return c.signed(ctx, "POST", "/v1/manifests",
			keyapi.Manifest{Manifest: c.assault.Manifest, Private: c.Private, Uses: 1, Signature: c.Large}, nil)
	}},
}

// widest is a policy of as many names and parts of host lists as there may be.
func widest(user string) manifest.Policy {
	p := keyservertest.Policy(user)
	p.Nodes = nil
	for i := range 64 {
		p.Nodes = append(p.Nodes, fmt.Sprintf("a%d-[00000-65535]", i))
	}
	for i := range 200 {
		p.Users = append(p.Users, fmt.Sprintf("u%060d", i))
	}
	return p
}

func (c *caller) do(ctx context.Context, r *http.Request, into any) (int, error) {
	res, err := c.http.Do(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && into != nil && res.StatusCode == http.StatusOK {
		err = json.Unmarshal(b, into)
	}
	return res.StatusCode, err
}

func (c *caller) request(method, path string, body any) (*http.Request, []byte, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, nil, err
		}
	}
	r, err := http.NewRequest(method, "https://"+c.Address+path, bytes.NewReader(b))
	return r, b, err
}

func (c *caller) plain(ctx context.Context, method, path string, body, into any) (int, error) {
	r, _, err := c.request(method, path, body)
	if err != nil {
		return 0, err
	}
	return c.do(ctx, r, into)
}

func (c *caller) signed(ctx context.Context, method, path string, body, into any) (int, error) {
	r, b, err := c.request(method, path, body)
	if err != nil {
		return 0, err
	}
	if err := c.sign(r, manifest.DigestOf(b)); err != nil {
		return 0, err
	}
	return c.do(ctx, r, into)
}

// sign signs a request whose body has a digest.
func (c *caller) sign(r *http.Request, body manifest.Digest) error {
	now, nonce := time.Now().Unix(), keyservertest.RandomHex(16)
	input := keyapi.SigningInput(c.Service, r.Method, r.URL.RequestURI(), body, now, nonce)
	sig, err := sshid.SignSSH(c.signer, keyapi.Namespace, input)
	if err != nil {
		return err
	}
	r.Header.Set(keyapi.HeaderSignature, base64.StdEncoding.EncodeToString(sig))
	r.Header.Set(keyapi.HeaderTime, strconv.FormatInt(now, 10))
	r.Header.Set(keyapi.HeaderNonce, nonce)
	r.Header.Set(keyapi.HeaderDigest, keyapi.ContentDigest(body))
	return nil
}

// asStranger has the next call be of a key that is not enrolled.
func (c *caller) asStranger() (err error) {
	_, stranger, err := ed25519.GenerateKey(nil)
	if err == nil {
		c.signer, err = ssh.NewSignerFromKey(stranger)
	}
	return err
}

func (c *caller) badSignature(ctx context.Context) (int, error) {
	if err := c.asStranger(); err != nil {
		return 0, err
	}
	return c.signed(ctx, "GET", "/v1/secrets", nil, nil)
}

// strangersLarge announces a large body, which it does not have.
func (c *caller) strangersLarge(ctx context.Context) (int, error) {
	none := iotest.ErrReader(errors.New("the service asks for a stranger's large body"))
	r, err := http.NewRequest("POST", "https://"+c.Address+"/v1/manifests", none)
	if err = errors.Join(err, c.asStranger()); err != nil {
		return 0, err
	}
	r.ContentLength = keyapi.MaxBody
	r.Header.Set("Expect", "100-continue")
	if err := c.sign(r, manifest.Digest{1}); err != nil {
		return 0, err
	}
	return c.do(ctx, r, nil)
}

func (c *caller) handshake(ctx context.Context) (int, error) {
	d := tls.Dialer{NetDialer: &c.dial, Config: c.tls}
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return 0, err
	}
	return http.StatusOK, conn.Close()
}

// slowBody leaves a request unfinished, and keeps the newest three of those.
func (c *caller) slowBody(ctx context.Context) (int, error) {
	d := tls.Dialer{NetDialer: &c.dial, Config: c.tls}
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return 0, err
	}
	if c.slow = append(c.slow, conn); len(c.slow) > 3 {
		c.slow[0].Close()
		c.slow = c.slow[1:]
	}
	_, err = io.WriteString(conn, "PUT /v1/secrets/"+c.Volume+"/policy HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n{")
	return http.StatusOK, err
}

func (c *caller) newToken(ctx context.Context) (int, error) {
	return c.signed(ctx, "POST", "/v1/tokens", keyapi.TokenRequest{Manifest: c.hostile.Manifest}, nil)
}

func (c *caller) deposit(ctx context.Context) (int, error) {
	digest := manifest.DigestOf([]byte(keyservertest.RandomHex(16)))
	s := keyapi.Secret{Name: "data", File: keyservertest.RandomHex(8), Kind: manifest.KindDataset, Digest: digest, Size: 1,
		Key: digest[:], Policy: widest("mallory")}
	return c.signed(ctx, "PUT", "/v1/secrets/"+keyservertest.RandomHex(16), s, nil)
}

// claim makes a claim for a manifest with a nonce that it asks for.
func (c *caller) claim(
	ctx context.Context, m manifest.Digest, node string, evidence func(keyapi.Claim) (keyapi.Evidence, error),
) (int, error) {
	var n keyapi.Nonce
	if status, err := c.plain(ctx, "POST", "/v1/nonces", nil, &n); err != nil || status != http.StatusOK {
		return status, err
	}
	e, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return 0, err
	}
	pub, s, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	claim := keyapi.Claim{Manifest: m, Job: manifest.Job{Cluster: "testcluster", ID: 7, ArrayTask: -1}, Node: node,
		Nonce: n.Nonce, E: e.PublicKey().Bytes(), S: pub}
	ev, err := evidence(claim)
	if err != nil {
		return 0, err
	}
	d := keyapi.ClaimDigest(c.Service, claim)
	return c.plain(ctx, "POST", "/v1/release", keyapi.Release{Claim: claim, Evidence: ev, Proof: ed25519.Sign(s, d[:])}, nil)
}

func (c *caller) falseEvidence(ctx context.Context) (int, error) {
	return c.claim(ctx, c.hostile.Manifest, "cn1", func(keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.NewEvidence(keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: strings.Repeat("e30.", 15_000)})
	})
}

func (c *caller) refusedClaim(ctx context.Context) (int, error) {
	if c.tokens[c.Refused] == "" {
		var k keyapi.Token
		status, err := c.signed(ctx, "POST", "/v1/tokens", keyapi.TokenRequest{Manifest: c.Refused}, &k)
		if err != nil || status != http.StatusOK {
			return status, err
		}
		c.tokens[c.Refused] = k.Token
	}
	return c.claim(ctx, c.Refused, "cn1", func(k keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.TokenEvidence(c.tokens[c.Refused], c.Service, k)
	})
}

// claimed has keys released to a node of a name of its own, with a new token.
func (c *caller) claimed(ctx context.Context) (int, error) {
	var k keyapi.Token
	status, err := c.signed(ctx, "POST", "/v1/tokens", keyapi.TokenRequest{Manifest: c.hostile.Manifest}, &k)
	if err != nil || status != http.StatusOK {
		return status, err
	}
	return c.claim(ctx, c.hostile.Manifest, "cn"+keyservertest.RandomHex(4), func(m keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.TokenEvidence(k.Token, c.Service, m)
	})
}

// summary is one line for each kind of call.
func summary(counts map[string]map[string]int) string {
	var lines []string
	for name, answers := range counts {
		lines = append(lines, fmt.Sprintf("%-52s %v", name, answers))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
