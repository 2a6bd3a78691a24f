package keyclient_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyclient"
)

// Where there is a proxy, calls go through it, still by TLS with the service; and errors name it.
func TestProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var tunnels atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(rw, "no", http.StatusMethodNotAllowed)
			return
		}
		tunnels.Add(1)
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(rw, "no", http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here) }()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(proxy.CloseClientConnections)
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := func(u *url.URL) *keyclient.Client {
		c, err := keyclient.New(keyclient.Options{URL: w.URL, CA: w.CA, Signer: w.alice, Retries: -1, Proxy: http.ProxyURL(u)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if s, err := client(at).Service(t.Context()); err != nil || s.ID != w.ID || tunnels.Load() != 1 {
		t.Errorf("%v, %v, %d tunnels", s, err, tunnels.Load())
	}
	_, err = client(&url.URL{Scheme: "http", Host: "127.0.0.1:1"}).Service(t.Context())
	if !errors.Is(err, keyclient.ErrUnavailable) || !strings.Contains(err.Error(), "through the proxy 127.0.0.1:1, as HTTPS_PROXY says") {
		t.Errorf("a proxy that is not there: %v", err)
	}
}
