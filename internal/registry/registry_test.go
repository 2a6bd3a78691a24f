package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	server "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sealbatch/sealbatch/internal/layers"
)

// env is an environment of some variables.
func env(vars map[string]string) func(string) string {
	return func(key string) string { return vars[key] }
}

// options are those of a user with an empty home directory, who waits for nothing.
func options(t *testing.T) Options {
	t.Helper()
	return Options{
		Getenv: env(map[string]string{"HOME": t.TempDir(), "XDG_RUNTIME_DIR": t.TempDir()}), SpoolDir: t.TempDir(),
		firstWait: time.Microsecond, Stall: 10 * time.Second,
	}
}

// start serves a registry, behind wrap if that is not nil.
func start(t *testing.T, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	h := server.New(server.Logger(quiet), server.WithReferrersSupport(true))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func host(s *httptest.Server) string {
	_, h, _ := strings.Cut(s.URL, "://")
	return h
}

// picture returns an image of n layers of size bytes each, for linux/amd64.
func picture(t *testing.T, n int, size int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, int64(n))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// push puts an image, or an index, into a registry under a name.
func push(t *testing.T, ref string, what remote.Taggable, o ...remote.Option) string {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(r, what, o...); err != nil {
		t.Fatal(err)
	}
	raw, err := what.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return digestOf(raw)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// open opens an image that has to be there.
func open(t *testing.T, ref string, o Options) *Remote {
	t.Helper()
	r, err := Open(t.Context(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// read returns a layer's bytes.
func read(ctx context.Context, l layers.Layer) ([]byte, error) {
	rc, err := l.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// readAll reads all layers twice, and holds them against their digests.
func readAll(t *testing.T, r *Remote) {
	t.Helper()
	for range 2 {
		for i, l := range r.Layers {
			b, err := read(t.Context(), l)
			if err != nil || digestOf(b) != l.Digest || int64(len(b)) != l.Size {
				t.Fatalf("layer %d: %d bytes, %v", i, len(b), err)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	img := picture(t, 4, 300_000)
	digest := push(t, host(s)+"/lab/tool:1.0", img)
	raw, _ := img.RawConfigFile()
	for _, ref := range []string{
		host(s) + "/lab/tool:1.0", "docker://" + host(s) + "/lab/tool:1.0", host(s) + "/lab/tool@" + digest,
		host(s) + "/lab/tool:1.0@" + digest, strings.Replace(host(s), "127.0.0.1", "localhost", 1) + "/lab/tool:1.0",
	} {
		r := open(t, ref, options(t))
		if r.Digest != digest || r.Resolved != digest || r.Platform != "linux/amd64" ||
			!bytes.Equal(r.RawConfig, raw) || len(r.Layers) != 4 {
			t.Errorf("%s: %s (%s) for %s with %d layers", ref, r.Digest, r.Resolved, r.Platform, len(r.Layers))
		}
		if want := strings.TrimPrefix(ref, "docker://"); r.Reference.String() != want {
			t.Errorf("%s is called %s", ref, r.Reference)
		}
		readAll(t, r)
	}
}

// TestProxy: where the environment names a proxy, all goes through it.
func TestProxy(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	push(t, host(s)+"/lab/tool", picture(t, 2, 1000))
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodConnect { // https is tried first, and not spoken here
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		asked.Add(1)
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, req)
	}))
	defer proxy.Close()
	o := options(t)
	o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	readAll(t, open(t, host(s)+"/lab/tool", o))
	if asked.Load() != 1+1+1+2 { // greeting, manifest, config, layers
		t.Errorf("%d requests by the proxy", asked.Load())
	}
}
