package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/oci"
)

// What wire refuses to send or to take.
var (
	errPlain     = errors.New("plain http is spoken to this machine only")
	errElsewhere = errors.New("a login is not sent to a host that the registry itself did not name for it")
	errWebPage   = errors.New("a web page, as of a login or a network's portal, and no registry's answer")
	errTooLong   = fmt.Errorf("longer than %d MiB", oci.MaxConfig>>20)
)

// wire is the lowest layer of all requests for one registry: of the library's handshakes (greeting, token) as of ours,
// and of each hop of a redirect. It holds them to rules that the library has in part only:
//
//   - http is spoken between processes of this machine only. The library speaks it to
//     private addresses, too, and to *.local.
//   - What carries a login (a header, or a form with an identity token) goes to the registry, or to
//     the token server that an answer of the registry's own has named. The library takes the name from
//     a host to which the greeting was redirected, too, and repeats a form where a redirect leads.
//   - Answers that are not a layer's are bounded, and one of which nothing more comes is given up.
//   - What may pass (429, 5xx) becomes an error with the wait that was asked for.
type wire struct {
	host      string // the registry's, with its port
	anonymous bool   // there is no login that could leak
	to        func(host string) (http.RoundTripper, error)
	stall     time.Duration // how long nothing may come

	mu     sync.Mutex
	realms map[string]bool
}

// bulk is the context key of requests for layers, whose answers are not bounded here.
type bulk struct{}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := w.check(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	rt, err := w.to(req.URL.Host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := rt.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Request, resp.Body = req, watch(ctx, cancel, resp.Body, w.stall)
	if resp.StatusCode == http.StatusUnauthorized && req.URL.Host == w.host {
		w.learn(resp.Header)
	}
	return w.judge(req, resp)
}

// check refuses what must not be sent.
func (w *wire) check(req *http.Request) error {
	u := req.URL
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Host) || !loopback(w.host)) {
		return errPlain
	}
	secret := req.Header.Get("Authorization") != "" || req.Body != nil
	if w.anonymous || !secret || u.Host == w.host {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.realms[u.Scheme+"://"+u.Host] {
		return nil
	}
	return errElsewhere
}

var realm = regexp.MustCompile(`(?i)\brealm="([^"]*)"`)

// learn notes the token servers that the registry names.
func (w *wire) learn(h http.Header) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, challenge := range h.Values("Www-Authenticate") {
		for _, m := range realm.FindAllStringSubmatch(challenge, 8) {
			if u, err := url.Parse(m[1]); err == nil && u.Host != "" {
				if w.realms == nil {
					w.realms = map[string]bool{}
				}
				w.realms[u.Scheme+"://"+u.Host] = true
			}
		}
	}
}

// judge turns answers into errors that no caller could use.
func (w *wire) judge(req *http.Request, resp *http.Response) (*http.Response, error) {
	layer, _ := req.Context().Value(bulk{}).(bool)
	switch code := resp.StatusCode; {
	case passing(code):
		defer resp.Body.Close()
		return nil, statusOf(resp, req.URL.Host)
	case code == http.StatusOK && !layer && req.URL.Path != "/v2/" && isPage(resp):
		resp.Body.Close()
		return nil, errWebPage
	}
	if !layer {
		resp.Body = &bounded{resp.Body, oci.MaxConfig}
	}
	return resp, nil
}

// passing reports whether a status may be another one soon; 499 and 522 are nginx's and
// Cloudflare's for a line that broke behind them.
func passing(code int) bool {
	return code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code == 499 ||
		(code >= 500 && code != http.StatusNotImplemented && code != http.StatusHTTPVersionNotSupported)
}

func isPage(resp *http.Response) bool {
	return strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "text/html")
}

// bounded is a body that fails beyond a number of bytes.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.ReadCloser.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// errStalled is the cause of a request's end in whose answer nothing came for too long.
var errStalled = errors.New("the line is open, and nothing comes any more")

// watched is a body that is given up when nothing comes for a while.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func watch(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, stall time.Duration) *watched {
	w := &watched{body, ctx, cancel, time.AfterFunc(stall, func() { cancel(errStalled) }), stall}
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}
