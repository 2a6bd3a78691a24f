package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/spool"
)

// fault of a registry: it may answer instead of it, or hand on.
type faulty func(w http.ResponseWriter, req *http.Request, next http.Handler)

func (f faulty) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { f(w, req, next) })
}

var (
	blobPath     = regexp.MustCompile(`/blobs/sha256:`)
	manifestPath = regexp.MustCompile(`/manifests/`)
)

// isLayer reports whether req asks for a blob of the test images' layers, which are larger than configs.
func isGet(req *http.Request, path *regexp.Regexp) bool {
	return req.Method == http.MethodGet && path.MatchString(req.URL.Path)
}

// cut is a ResponseWriter whose connection breaks after some bytes of the body.
type cut struct {
	http.ResponseWriter
	left int
	sent *atomic.Int64
}

func (c *cut) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.ResponseWriter.Write(p[:n])
	c.sent.Add(int64(n))
	if c.left -= n; n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// TestBrokenLine: each connection ends after 100,000 bytes, and all the same each byte is sent once, where the
// server can go on inside a layer; where it cannot, or does it wrongly, the whole arrives, too.
func TestBrokenLine(t *testing.T) {
	t.Parallel()
	const size = 350_000
	for name, c := range map[string]struct {
		spoil func(w http.ResponseWriter, req *http.Request) bool // reports whether it has answered
		step  int                                                 // how much longer each connection lasts
		once  bool                                                // each byte is sent once
	}{
		"Range":         {nil, 0, true},
		"Range ignored": {func(_ http.ResponseWriter, req *http.Request) bool { req.Header.Del("Range"); return false }, 100_000, false},
		"Range refused": {func(w http.ResponseWriter, req *http.Request) bool {
			if req.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}, 100_000, false},
		"a part of the range": {func(_ http.ResponseWriter, req *http.Request) bool {
			var from, to int
			if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
				req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, min(from+49_999, to)))
			}
			return false
		}, 0, true},
		"another range": {func(w http.ResponseWriter, req *http.Request) bool {
			if req.Header.Get("Range") != "" {
				req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", 1<<30))
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
				return true
			}
			return false
		}, 100_000, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent, lines atomic.Int64
			s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if !isGet(req, blobPath) {
					next.ServeHTTP(w, req)
					return
				}
				if c.spoil == nil || !c.spoil(w, req) {
					next.ServeHTTP(&cut{w, 100_000 + int(lines.Add(1))*c.step, &sent}, req)
				}
			}).wrap)
			img := picture(t, 1, size)
			push(t, host(s)+"/lab/tool", img)
			r := open(t, host(s)+"/lab/tool", options(t))
			readAll(t, r)
			want := r.Layers[0].Size + int64(len(r.RawConfig))
			if got := sent.Load(); (got == want) != c.once {
				t.Errorf("%d bytes were sent of %d in %d connections", got, want, lines.Load())
			}
		})
	}
}

// TestSilence: a line that stays open while nothing comes is given up, and another goes on.
func TestSilence(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	var sent, lines atomic.Int64
	s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isGet(req, blobPath) && lines.Add(1) <= 3 { // of the config and of the layer
			func() {
				defer func() { _ = recover() }()
				next.ServeHTTP(&cut{w, 150, &sent}, req)
			}()
			select {
			case <-done:
			case <-req.Context().Done():
			}
			return
		}
		next.ServeHTTP(w, req)
	}).wrap)
	t.Cleanup(func() { close(done) })
	push(t, host(s)+"/lab/tool", picture(t, 1, 100_000))
	o := options(t)
	o.Stall = 100 * time.Millisecond
	readAll(t, open(t, host(s)+"/lab/tool", o))
	if lines.Load() < 4 {
		t.Errorf("%d connections", lines.Load())
	}
}

// TestBadBlobs: what is not the layer that the manifest names is refused, with class and hint, and none of it can be read.
func TestBadBlobs(t *testing.T) {
	t.Parallel()
	reply := func(h map[string]string, code int, body string) faulty {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			for k, v := range h {
				w.Header().Set(k, v)
			}
			w.WriteHeader(code)
			io.WriteString(w, body)
			if h["Content-Length"] == "" {
				w.(http.Flusher).Flush() // chunked
			}
		}
	}
	chunked := func(change func([]byte) []byte) faulty {
		return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			req.Header.Del("Range")
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			w.Write(change(rec.Body.Bytes()))
		}
	}
	for name, c := range map[string]struct {
		f     faulty
		class fault.Class
		says  string
	}{
		"wrong digest": {chunked(func(b []byte) []byte { b[5] ^= 1; return b }), fault.Integrity,
			"where sha256:"},
		"truncated": {reply(map[string]string{"Content-Length": "9"}, 200, "truncated"), fault.Integrity,
			"has 9 bytes there"},
		"truncated, unsaid": {chunked(func(b []byte) []byte { return b[:len(b)/2] }), fault.Other,
			"breaks again and again"},
		"longer": {chunked(func(b []byte) []byte { return append(b, 'x') }), fault.Integrity,
			"longer there"},
		"a web page": {reply(map[string]string{"Content-Type": "text/html", "Content-Length": "6"}, 200,
			"<html>"), fault.Other, "a web page"},
		"gone": {reply(nil, 404, `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}`),
			fault.Other, "has the image's manifest, but not this part"},
		"broken": {reply(nil, 502, `bad gateway`), fault.Other,
			"is in trouble (it answers 502 Bad Gateway)"},
		"endless": {chunked(func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }),
			fault.Integrity, "longer there"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var config atomic.Value
			config.Store("")
			s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isGet(req, blobPath) && !strings.HasSuffix(req.URL.Path, config.Load().(string)) {
					c.f(w, req, next)
					return
				}
				next.ServeHTTP(w, req)
			}).wrap)
			img := picture(t, 3, 50_000)
			h, _ := img.ConfigName()
			config.Store(h.String())
			push(t, host(s)+"/lab/tool", img)
			r := open(t, host(s)+"/lab/tool", options(t))
			for _, l := range r.Layers {
				b, err := read(t.Context(), l)
				check(t, err, c.class, c.says)
				if len(b) > 0 {
					t.Errorf("%d bytes were handed out", len(b))
				}
			}
		})
	}
}

// check holds an error against its class, what it says, and whether there is a hint.
func check(t *testing.T, err error, class fault.Class, says string) {
	t.Helper()
	if err == nil || fault.ClassOf(err) != class || !strings.Contains(err.Error(), says) || fault.Hint(err) == "" {
		t.Errorf("want %s: %q; got %s: %v (hint: %s)", class, says, fault.ClassOf(err), err, fault.Hint(err))
	}
	if err != nil && strings.Contains(err.Error(), "http") && strings.Contains(err.Error(), "://") {
		t.Errorf("an address in the error: %v", err)
	}
}

// TestRefusals: what registries answer instead of a manifest, in words.
func TestRefusals(t *testing.T) {
	t.Parallel()
	errorBody := func(code, message string) string {
		b, _ := json.Marshal(map[string]any{"errors": []any{map[string]any{"code": code, "message": message,
			"detail": nil}}})
		return string(b)
	}
	for name, c := range map[string]struct {
		code       int
		header, to string
		body       string
		class      fault.Class
		says, hint string
	}{
		"no tag": {404, "", "", errorBody("MANIFEST_UNKNOWN", "manifest unknown"), fault.Other,
			"has no such image", "tag"},
		"no repository": {404, "", "", errorBody("NAME_UNKNOWN", "repository name not known"), fault.Other,
			"has no repository of that name", "docker login"},
		"404 of a proxy": {404, "", "", "<h1>nothing here</h1>", fault.Other, "has no such image", "docker login"},
		"not logged in": {401, "", "", errorBody("UNAUTHORIZED", "authentication required"), fault.Other,
			"without a login", "podman login"},
		"denied": {403, "", "", errorBody("DENIED", "requested access is denied\x1b[2J"), fault.Other,
			"without a login: requested access", "podman login"},
		"rate limit": {429, "", "", errorBody("TOOMANYREQUESTS", "You have reached your pull rate limit."),
			fault.Other, "its rate limit): You have", "log in"},
		"come back": {429, "Retry-After", "3600", "", fault.Other, "its rate limit)", "wait 1 h 00 min"},
		"broken":    {500, "", "", "oops", fault.Other, "is in trouble (it answers 500", "later"},
		"teapot":    {418, "", "", "", fault.Other, "answers 418", "container registry"},
		"web page": {200, "Content-Type", "text/html; charset=utf-8", "<html>log in", fault.Other,
			"a web page", "browser"},
		"not JSON": {200, "Content-Type", "application/vnd.oci.image.manifest.v1+json", "{", fault.Usage,
			"cannot be read", ""},
		"huge": {200, "Content-Type", "application/json", strings.Repeat(" ", oci.MaxManifest+1),
			fault.Other, "more than a manifest", "container image"},
		"schema 1": {200, "Content-Type", string(types.DockerManifestSchema1),
			`{"schemaVersion": 1, "name": "x"}`, fault.Usage, "", ""},
		"round and round": {302, "Location", "/v2/lab/tool/manifests/latest", "", fault.Other,
			"without an end", "ask"},
		"away to http": {302, "Location", "http://registry.example/v2/", "", fault.Other,
			"plain http is spoken to this machine only", "ask"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if !manifestPath.MatchString(req.URL.Path) {
					next.ServeHTTP(w, req)
					return
				}
				if c.header != "" {
					w.Header().Set(c.header, c.to)
				}
				w.WriteHeader(c.code)
				io.WriteString(w, c.body)
			}).wrap)
			_, err := Open(t.Context(), host(s)+"/lab/tool", options(t))
			if c.hint == "" { // package oci's words
				if err == nil || fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %s: %v", fault.ClassOf(err), err)
				}
				return
			}
			check(t, err, c.class, c.says)
			if !strings.Contains(fault.Hint(err), c.hint) || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%v (hint: %s)", err, fault.Hint(err))
			}
		})
	}
}

// TestPatience: what passes is waited for, as long as the registry asks.
func TestPatience(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodGet {
			switch asked.Add(1) {
			case 1: // the greeting
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			case 3:
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			case 4:
				w.Header().Set("Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
		next.ServeHTTP(w, req)
	}).wrap)
	push(t, host(s)+"/lab/tool", picture(t, 1, 100))
	asked.Store(0)
	var waits []time.Duration
	o := options(t)
	o.sleep = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	readAll(t, open(t, host(s)+"/lab/tool", o))
	if len(waits) != 3 || waits[0] > time.Second || waits[1] < 7*time.Second || waits[2] < 58*time.Second {
		t.Errorf("waits %v", waits)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, " 5 ": 5 * time.Second, "-5": 0, "5.5": 0, "soon": 0, "99999999999999999999": 0,
		"Mon, 30 Nov 2026 12:01:00 GMT": time.Minute, "Mon, 30 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %s", value, got)
		}
	}
}

// TestUnreachable: registries that do not answer, or not in TLS.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	defer secure.Close()
	for name, c := range map[string]struct{ at, says string }{
		"nobody there":      {host(gone), "nothing listens at"},
		"unknown authority": {host(secure), "a certificate of an unknown authority"},
	} {
		_, err := Open(t.Context(), c.at+"/lab/tool", options(t))
		if check(t, err, fault.Other, c.says); !strings.Contains(err.Error(), c.at) {
			t.Errorf("%s: which host? %v", name, err)
		}
	}
}

// TestEndInTheMiddle: a registry that goes away for good, a user who gives up, an image that is closed.
func TestEndInTheMiddle(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if gone.Load() && isGet(req, blobPath) {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	}).wrap)
	push(t, host(s)+"/lab/tool", picture(t, 5, 1000))
	r := open(t, host(s)+"/lab/tool", options(t))
	gone.Store(true)
	_, err := read(t.Context(), r.Layers[3])
	check(t, err, fault.Other, host(s)+" ")

	hang := make(chan struct{})
	h := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isGet(req, blobPath) && req.Header.Get("User-Agent") != "" && gone.Load() {
			<-hang
		}
		next.ServeHTTP(w, req)
	}).wrap)
	defer close(hang)
	gone.Store(false)
	push(t, host(h)+"/lab/tool", picture(t, 2, 1000))
	r = open(t, host(h)+"/lab/tool", options(t))
	gone.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := read(ctx, r.Layers[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := read(t.Context(), r.Layers[0]); err == nil {
		t.Error("a closed image is read")
	}
}

// TestNoRoom: that the spool's file system is too small is said before anything is fetched.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	push(t, host(s)+"/lab/tool", picture(t, 1, 1000))
	r := open(t, host(s)+"/lab/tool", options(t))
	r.Manifest.Layers[0].Size = 1 << 60
	if _, err := read(t.Context(), r.Layers[0]); !errors.Is(err, spool.ErrFull) || fault.Hint(err) == "" {
		t.Errorf("%v", err)
	}
	o := options(t)
	o.SpoolDir += "/nowhere"
	r = open(t, host(s)+"/lab/tool", o)
	if _, err := read(t.Context(), r.Layers[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestLayersAreFetchedOnce: by several readers at once, several times, and where two layers are one.
func TestLayersAreFetchedOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isGet(req, blobPath) {
			asked.Add(1)
		}
		next.ServeHTTP(w, req)
	}).wrap)
	img := picture(t, 4, 100_000)
	push(t, host(s)+"/lab/tool", img)
	o := options(t)
	var bars barLog
	o.Progress = bars.start
	r := open(t, host(s)+"/lab/tool", o)
	r.Manifest.Layers[3] = r.Manifest.Layers[0]
	r.Layers[3] = r.Layers[0]
	if asked.Load() != 1 {
		t.Errorf("%d blobs before anybody reads", asked.Load())
	}
	done := make(chan struct{})
	for range 3 {
		go func() { defer func() { done <- struct{}{} }(); readAll(t, r) }()
	}
	for range 3 {
		<-done
	}
	if asked.Load() != 1+3 {
		t.Errorf("%d blobs", asked.Load())
	}
	if total := strconv.FormatInt(r.Layers[0].Size+r.Layers[1].Size+r.Layers[2].Size,
		10); bars.String() != "fetching "+host(s)+"/lab/tool:latest "+total+" of "+total+" true" {
		t.Errorf("progress: %s", bars.String())
	}
}
