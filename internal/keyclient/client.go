package keyclient

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/retry"
)

// Options say how a key service is reached. URL is required, and CA or SystemRoots.
type Options struct {
	URL string // https, with an optional path prefix
	CA  []byte // PEM bundle that alone vouches for the server's certificate
	// SystemRoots lets the authorities of this machine vouch in the place of CA, which is empty then. For people's
	// machines only: nodes are told by Root which of them did.
	SystemRoots bool
	// Known is asked, before anything else is sent, whether the service is the expected one, and may refuse it; nil
	// asks nobody.
	Known func(keyapi.Service) error
	// Signer signs requests; nil for nodes, which make only Release.
	Signer ssh.Signer
	// ServiceID pins the service, and with it its statement key; "" takes
	// what answers under URL.
	ServiceID string
	// Proxy chooses the proxy of a request, as http.ProxyFromEnvironment does; nil for none. A proxy passes on
	// bytes of TLS and reads nothing.
	Proxy func(*http.Request) (*url.URL, error)
	// Timeout bounds one exchange; default 30 s.
	Timeout time.Duration
	// Retries is how often a call is repeated while the service is busy or
	// out of reach, within the call's context; default 7, negative none.
	Retries int
	Log     *slog.Logger // default: none
}

// Client makes the calls. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	proxy   func(*http.Request) (*url.URL, error)
	signer  ssh.Signer
	pinned  string
	known   func(keyapi.Service) error
	system  bool
	retries int
	log     *slog.Logger

	mu      sync.Mutex
	service *keyapi.Service   // once known
	root    *x509.Certificate // the authority that vouched for it
}

const (
	defaultTimeout = 30 * time.Second
	defaultRetries = 7       // 20 s: a service that is started anew
	maxAnswer      = 4 << 20 // bytes
	maxRetryAfter  = 30 * time.Second
	firstBackoff   = 200 * time.Millisecond
	longestBackoff = 10 * time.Second
	// Beyond it, the service decides by the headers whether it reads a body: a
	// client that sends it all the same may find its connection closed instead of the
	// reason why.
	largeBody  = 64 << 10
	answerTime = 5 * time.Second // how long that is waited for
)

// New returns a client; it contacts nobody.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("key service: %.200q is not an https URL", o.URL)
	}
	pool, err := o.roots()
	if err != nil {
		return nil, err
	}
	c := &Client{base: u, proxy: o.Proxy, signer: o.Signer, pinned: o.ServiceID, known: o.Known, system: o.SystemRoots,
		retries: o.Retries, log: o.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.retries == 0 {
		c.retries = defaultRetries
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	c.http = &http.Client{
		Timeout: o.Timeout,
		Transport: &http.Transport{
			// None on nodes: the environment of a job does not decide who sees requests.
			Proxy:               o.Proxy,
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
			TLSHandshakeTimeout: o.Timeout, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
			ExpectContinueTimeout: answerTime,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// call describes one exchange.
type call struct {
	method, path string
	query        string // encoded; "" for none
	body         any    // nil for none
	raw          []byte
	signed       bool
}

// target returns what a signature covers of the URL.
func (k call) target() string {
	if k.query == "" {
		return k.path
	}
	return k.path + "?" + k.query
}

// do makes a call, again where that helps, and decodes the answer into out.
func (c *Client) do(ctx context.Context, k call, out any) error {
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return fmt.Errorf("key service: %w", err)
		}
		defer clear(b)
		k.raw = b
	}
	p := c.policy("trying again", worthAnother)
	p.Tries = c.tries()
	return p.Do(ctx, func() error { return c.once(ctx, k, out) })
}

// policy returns how calls are repeated; doing names what, for the log.
func (c *Client) policy(doing string, worth func(error) bool) retry.Policy {
	return retry.Policy{
		First: firstBackoff, Most: longestBackoff, Worth: worth,
		Waiting: func(wait time.Duration, err error) {
			if wait >= time.Second { // shorter ones nobody notices
				c.log.Info("key service: "+doing, "in", wait, "error", err)
			}
		},
	}
}

// tries returns how often a call is made.
func (c *Client) tries() int { return max(c.retries, 0) + 1 }

// triedEnough is an error of a call within a call, which was repeated by itself.
type triedEnough struct{ error }

func (t triedEnough) Unwrap() error { return t.error }

// worthAnother reports whether err may pass: every call that do makes can be repeated.
func worthAnother(err error) bool {
	if errors.As(err, new(triedEnough)) {
		return false
	}
	if api, ok := errors.AsType[*APIError](err); ok && (api.Retryable || api.Code == keyapi.CodeInternal) {
		return api.Retryable
	}
	return errors.Is(err, ErrTooMany) || errors.Is(err, ErrUnavailable)
}

// errNotSent marks requests of which the service has seen nothing.
var errNotSent = errors.New("nothing was sent")

// notSent is an error that is errNotSent, too, without saying so.
type notSent struct{ error }

func (notSent) Is(target error) bool { return target == errNotSent }
func (n notSent) Unwrap() error      { return n.error }

// once makes one exchange. Its errors carry how long the service asked to wait.
func (c *Client) once(ctx context.Context, k call, out any) error {
	req, err := c.request(ctx, k)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.viaProxy(req, c.transportError(ctx, err))
	}
	defer res.Body.Close()
	c.noteRoot(res.TLS)
	b, err := fsx.ReadAll(res.Body, maxAnswer)
	if errors.Is(err, fsx.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if err != nil {
		return c.transportError(ctx, err)
	}
	if res.StatusCode != http.StatusOK {
		return retry.After(apiError(res.StatusCode, b), retryAfter(res))
	}
	if err := manifest.DecodeJSON(b, out); err != nil {
		return notOurs(k, b, err)
	}
	return nil
}

// viaProxy adds to an error by which proxy the request went.
func (c *Client) viaProxy(req *http.Request, err error) error {
	if c.proxy == nil {
		return err
	}
	if u, proxyErr := c.proxy(req); proxyErr == nil && u != nil {
		return fmt.Errorf("%w (through the proxy %s, as HTTPS_PROXY says; NO_PROXY=%s goes past it)", err, u.Host, c.base.Hostname())
	}
	return err
}

func retryAfter(res *http.Response) time.Duration {
	s, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(s)*time.Second, maxRetryAfter)
}

// clean bounds a message from the network and removes what could drive a terminal.
func clean(s string) string {
	if len(s) > 1000 {
		s = s[:1000]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	u := *c.base
	u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/")+k.path, k.query
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), bytes.NewReader(k.raw))
	if err != nil {
		return nil, fmt.Errorf("key service: %w", err)
	}
	if k.raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if len(k.raw) > largeBody {
		req.Header.Set("Expect", "100-continue")
	}
	if !k.signed {
		return req, nil
	}
	return req, c.sign(ctx, req, k)
}

// sign signs a request afresh: a repeated one needs a new time and nonce.
func (c *Client) sign(ctx context.Context, req *http.Request, k call) error {
	if c.signer == nil {
		return fmt.Errorf("%w: no SSH key to sign the request with", ErrUnauthorised)
	}
	s, err := c.Service(ctx)
	if err != nil {
		return triedEnough{err}
	}
	n := make([]byte, 16)
	rand.Read(n) // never fails
	nonce, unix := hex.EncodeToString(n), time.Now().Unix()
	digest := manifest.DigestOf(k.raw)
	msg := keyapi.SigningInput(s.ID, k.method, k.target(), digest, unix, nonce)
	sig, err := sshsig.Sign(bytes.NewReader(msg), c.signer, sshsig.HashSHA512, keyapi.Namespace)
	if err != nil {
		return fmt.Errorf("sign the request with %s: %w", ssh.FingerprintSHA256(c.signer.PublicKey()), err)
	}
	req.Header.Set(keyapi.HeaderSignature, base64.StdEncoding.EncodeToString(sig.Marshal()))
	req.Header.Set(keyapi.HeaderTime, strconv.FormatInt(unix, 10))
	req.Header.Set(keyapi.HeaderNonce, nonce)
	req.Header.Set(keyapi.HeaderDigest, keyapi.ContentDigest(digest))
	return nil
}

// Service asks who the service is, once. The answer's statement key is checked
// against its id, the id against Options.ServiceID, and both by Options.Known.
func (c *Client) Service(ctx context.Context) (keyapi.Service, error) {
	c.mu.Lock()
	known := c.service
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var s keyapi.Service
	if err := c.do(ctx, call{method: http.MethodGet, path: servicePath}, &s); err != nil {
		return s, err
	}
	key, err := manifest.DecodeKey(s.StatementKey)
	if err != nil || !keyapi.ServiceKeyMatches(s.ID, key) {
		return s, fmt.Errorf("%w: %s gives an id that does not belong to its key", ErrService, c.base.Host)
	}
	if c.pinned != "" && s.ID != c.pinned {
		return s, fmt.Errorf("%w: %s is %.160q, expected is %.160q", ErrService, c.base.Host, clean(s.ID), c.pinned)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.service == nil && c.known != nil {
		if err := c.known(s); err != nil {
			return s, err
		}
	}
	c.service = &s
	return s, nil
}

// statementKey returns the service's verified statement key.
func (c *Client) statementKey(ctx context.Context) (string, ed25519.PublicKey, error) {
	s, err := c.Service(ctx)
	if err != nil {
		return "", nil, err
	}
	key, err := manifest.DecodeKey(s.StatementKey)
	return s.ID, key, err
}
