package service

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/gate"
)

// TestShutdown ends a service while a request is at work, which finishes or does
// not.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		finishes bool
		shutdown time.Duration
		want     error
	}{
		"the request finishes":   {true, time.Minute, nil},
		"the request is at work": {false, time.Millisecond, ErrAtWork},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(Config{Name: "test service", MaxHeader: 1 << 10, Times: Times{Header: time.Minute, Shutdown: tc.shutdown},
				Limits: gate.Limits{Connections: 4, PerSecond: 100, Burst: 100, Memory: 100}})
			started, finish := make(chan struct{}), make(chan struct{})
			h := s.Handler(func(w http.ResponseWriter, _ *http.Request) error {
				close(started)
				<-finish
				_, err := io.WriteString(w, "done")
				return err
			})
			// Its certificate and client are all that is used of it.
			ts := httptest.NewTLSServer(nil)
			defer ts.Close()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended, answered := make(chan error, 1), make(chan string, 1)
			go func() { ended <- s.Serve(ctx, ln, ts.TLS.Certificates[0], h) }()
			go func() { answered <- get(ts.Client(), "https://"+ln.Addr().String()) }()
			<-started
			stop()
			if tc.finishes {
				close(finish)
			}
			if err := <-ended; !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("Serve returns %v, want %v", err, tc.want)
			}
			if !tc.finishes {
				close(finish)
			}
			if got := <-answered; got != "done" {
				t.Errorf("the answer is %q", got)
			}
		})
	}
}

func get(c *http.Client, url string) string {
	res, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
