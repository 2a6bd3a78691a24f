package keyclient_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyclient"
)

// rawText is what Go's packages say, and people need not understand.
var rawText = regexp.MustCompile(`x509|tls:|dial tcp|lookup |EOF|deadline|invalid character|http: |Get "|strconv|0x[0-9a-f]{6}`)

// TestOutOfReachInWords: whatever answers under the URL, or does not, is told in a sentence and with a hint.
func TestOutOfReachInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := func(status int, body string) *httptest.Server {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	talks := func(talk func(net.Conn)) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				go talk(c)
			}
		}()
		return "https://" + ln.Addr().String()
	}
	web, notFound, empty := answers(200, "<!DOCTYPE html><html>log in</html>"), answers(404, "<html>"), answers(200, "")
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(w.URL, "https://"))
	for name, c := range map[string]struct{ url, ca, want string }{
		"no such host":     {"https://keys.invalid:8443", "", "there is no host keys.invalid|DNS does not answer"},
		"closed port":      {strings.Replace(closed.URL, "http:", "https:", 1), "", "nothing listens at 127.0.0.1:"},
		"no TLS":           {strings.Replace(plain.URL, "http:", "https:", 1), "", "does not speak TLS"},
		"another CA":       {w.URL, string(caOf(web)), "of an unknown authority: its CA \\(ca-cert\\) does not vouch"},
		"another name":     {"https://127.0.0.2:" + port, "", "shows a certificate for .*, not 127.0.0.2|nothing listens"},
		"a web page":       {web.URL, string(caOf(web)), "web page: of a proxy"},
		"no such page":     {notFound.URL, string(caOf(notFound)), "HTTP status 404 Not Found with an answer which is a web page"},
		"an empty answer":  {empty.URL, string(caOf(empty)), "HTTP status 200 OK with an answer which is not a key service's"},
		"hangs up":         {talks(func(c net.Conn) { c.Close() }), "", "ends the connection without an answer"},
		"says nothing":     {talks(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "", "does not answer in time"},
		"speaks SSH":       {talks(func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH_9\r\n")) }), "", "does not speak TLS"},
		"refuses the name": {refusing(t), "", "refuses TLS as it is spoken here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := []byte(c.ca)
			if c.ca == "" {
				ca = w.CA
			}
			client := newClient(t, keyclient.Options{URL: c.url, CA: ca, Retries: -1, Timeout: 2 * time.Second})
			_, err := client.Service(t.Context())
			if err == nil || !regexp.MustCompile(c.want).MatchString(err.Error()) || rawText.MatchString(err.Error()) || fault.Hint(err) == "" {
				t.Errorf("%v, hint %q; want %s", err, fault.Hint(err), c.want)
			}
		})
	}
}

// refusing returns the URL of a server that ends every handshake with an alert.
func refusing(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return nil, x509.CertificateInvalidError{}
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// TestTriedOnceAtATime: a call that has to ask first who the service is does not multiply its tries.
func TestTriedOnceAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var asked atomic.Int32
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(s.Close)
	c := newClient(t, keyclient.Options{URL: s.URL, CA: caOf(s), Signer: w.alice, Retries: 2})
	if _, err := c.GetSecret(t.Context(), strings.Repeat("a", 32)); !errors.Is(err, keyclient.ErrUnavailable) {
		t.Error(err)
	}
	if asked.Load() != 3 {
		t.Errorf("it was asked %d times, not 3", asked.Load())
	}
}

// TestForeign: what is no key service, or speaks no TLS, is a wrong address, is asked once, and is no breach.
func TestForeign(t *testing.T) {
	t.Parallel()
	page := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const html = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n"
	for name, c := range map[string]struct {
		answer http.Handler
		plain  bool
		want   string
	}{
		"HPCS behind a TLS proxy": {answer: page(404, "text/html", html), want: "HTTP status 404 Not Found with an answer which is a web page"},
		"HPCS itself":             {answer: page(404, "text/html", html), plain: true, want: "does not speak TLS"},
		"a wrong method":          {answer: page(405, "text/html", html), want: "405"},
		"its own JSON":            {answer: page(200, "application/json", `{"success": true, "message": "ok"}`), want: "HTTP status 200 OK"},
		"a fault of its own":      {answer: page(500, "text/html", html), want: "500"},
		"a login page":            {answer: http.RedirectHandler("https://sso.example.org/", http.StatusFound), want: "302 Found"},
		"JSON of others":          {answer: page(404, "application/json", `{"detail":"Not Found"}`), want: "not a key service's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			s := httptest.NewUnstartedServer(c.answer)
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					asked.Add(1)
				}
			}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			at := s.URL
			if c.plain {
				plain := httptest.NewUnstartedServer(c.answer)
				plain.Config.ConnState = s.Config.ConnState
				plain.Start()
				t.Cleanup(plain.Close)
				at = strings.Replace(plain.URL, "http:", "https:", 1)
			}
			_, err := newClient(t, keyclient.Options{URL: at, CA: caOf(s), Retries: 1}).Service(t.Context())
			if !errors.Is(err, keyclient.ErrForeign) || fault.ClassOf(err) != fault.Config || !strings.Contains(err.Error(), c.want) ||
				!strings.Contains(fault.Hint(err), "docs/migrating-from-hpcs.md") {
				t.Errorf("%v, of class %v, hint %q; want %s", err, fault.ClassOf(err), fault.Hint(err), c.want)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}
