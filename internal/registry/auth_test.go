package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	server "github.com/google/go-containerregistry/pkg/registry"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/progress"
)

var quiet = log.New(io.Discard, "", 0)

// barLog remembers the last state of a progress bar.
type barLog struct {
	mu          sync.Mutex
	label       string
	done, total int64
	ok          bool
}

func (b *barLog) start(label string, done, total int64) progress.Bar {
	b.label, b.done, b.total = label, done, total
	return b
}

func (b *barLog) Update(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.total = max(b.done, done), total
}

func (b *barLog) End(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ok = ok
}

func (b *barLog) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%s %d of %d %v", b.label, b.done, b.total, b.ok)
}

// write puts a file of the user's in place.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logins is the content of a config.json with logins.
func logins(users map[string]string) string {
	auths := map[string]map[string]string{}
	for host, user := range users {
		if token, ok := strings.CutPrefix(user, "token "); ok {
			auths[host] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("u:")),
				"identitytoken": token}
			continue
		}
		auths[host] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user))}
	}
	b, _ := json.Marshal(map[string]any{"auths": auths})
	return string(b)
}

// guarded is a registry behind TLS and a login: basic, or by tokens of a server of its own.
type guarded struct {
	*httptest.Server
	tokens *httptest.Server // nil for basic
	mu     sync.Mutex
	seen   []string // "METHOD HOST PATH AUTHORIZATION-SCHEME" of all requests
	realm  string
	inner  http.Handler

	greeting, instead, insteadOfToken func(http.ResponseWriter,
		*http.Request) bool // report whether they have answered
}

func (g *guarded) note(req *http.Request) {
	scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, strings.Join([]string{req.Method, req.Host, req.URL.Path, scheme}, " "))
}

// secure serves h over TLS under the names 127.0.0.1 and localhost.
func secure(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = quiet
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// named is where s is reached by name.
func named(s *httptest.Server) string { return strings.Replace(s.URL, "127.0.0.1", "localhost", 1) }

// newGuarded starts one that lets in user:secret and the identity token "long-lived", and holds lab/tool:1.0.
func newGuarded(t *testing.T, bearer bool) *guarded {
	t.Helper()
	g := &guarded{inner: server.New(server.Logger(quiet))}
	if bearer {
		g.tokens = secure(t, g.token)
		g.realm = named(g.tokens) + "/token"
	}
	g.Server = secure(t, func(w http.ResponseWriter, req *http.Request) {
		g.note(req)
		user, secret, _ := req.BasicAuth()
		switch {
		case g.greeting != nil && g.greeting(w, req):
			return
		case bearer && req.Header.Get("Authorization") != "Bearer short-lived":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="tests",scope="repository:lab/tool:pull"`, g.realm))
		case !bearer && user+":"+secret != "user:secret":
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
		case g.instead != nil && g.instead(w, req):
			return
		default:
			g.inner.ServeHTTP(w, req)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	open := httptest.NewServer(g.inner)
	defer open.Close()
	push(t, host(open)+"/lab/tool:1.0", picture(t, 2, 50_000))
	return g
}

func (g *guarded) token(w http.ResponseWriter, req *http.Request) {
	g.note(req)
	user, secret, _ := req.BasicAuth()
	switch {
	case g.insteadOfToken != nil && g.insteadOfToken(w, req):
	case req.Method == http.MethodPost && req.PostFormValue("refresh_token") == "long-lived",
		user+":"+secret == "user:secret":
		io.WriteString(w, `{"token": "short-lived"}`)
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// user returns the options of somebody who has logged in as user, and believes the servers' certificates.
func (g *guarded) user(t *testing.T, user string, others ...*httptest.Server) Options {
	t.Helper()
	o := options(t)
	for _, s := range append(others, g.Server, g.tokens) {
		if s == nil {
			continue
		}
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]})
		for _, name := range []string{s.URL, named(s)} {
			write(t, filepath.Join(o.Getenv("HOME"), ".config/containers/certs.d",
				strings.TrimPrefix(name, "https://"), "ca.crt"), string(cert))
		}
	}
	if user != "" {
		write(t, o.Getenv("HOME")+"/.docker/config.json", logins(map[string]string{host(g.Server): user}))
	}
	return o
}

// TestLogins: over TLS that only the user's own directory of certificates vouches for, by a basic login, by one that a
// token server takes, by an identity token; without one, and with a wrong one, it says what is missing.
func TestLogins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bearer bool
		user   string
		says   string // "" where it works
	}{
		"basic":          {false, "user:secret", ""},
		"bearer":         {true, "user:secret", ""},
		"identity token": {true, "token long-lived", ""},
		"basic, wrong":   {false, "user:wrong", "refuses the login that"},
		"bearer, wrong":  {true, "user:wrong", "refuses the login that"},
		"token, too old": {true, "token of last year", "refuses the login that"},
		"basic, nobody":  {false, "", "has no such image that may be read without a login"},
		"bearer, nobody": {true, "", "has no such image that may be read without a login"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, c.bearer)
			r, err := Open(t.Context(), host(g.Server)+"/lab/tool:1.0", g.user(t, c.user))
			if c.says != "" {
				check(t, err, fault.Other, c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			readAll(t, r)
		})
	}
}

// TestLoginsStayAtHome: whatever a registry, or one who has got between, answers, the login goes nowhere but to the
// registry and to the token server that it names itself.
func TestLoginsStayAtHome(t *testing.T) {
	t.Parallel()
	redirect := func(path, to string, code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, path) {
				return false
			}
			http.Redirect(w, req, to+req.URL.Path, code)
			return true
		}
	}
	for name, c := range map[string]struct {
		user  string
		trick func(g *guarded, thief string)
		works bool // the image is read all the same, without the login
	}{
		"layers elsewhere": {"user:secret", func(g *guarded,
			thief string) {
			g.instead = redirect("/blobs/", thief, 307)
		}, true},
		"manifests elsewhere": {"user:secret", func(g *guarded,
			thief string) {
			g.instead = redirect("/manifests/", thief, 302)
		}, true},
		"tokens elsewhere": {"user:secret", func(g *guarded,
			thief string) {
			g.insteadOfToken = redirect("/token", thief, 302)
		}, false},
		"identity token": {"token long-lived", func(g *guarded,
			thief string) {
			g.insteadOfToken = redirect("/token", thief, 307)
		}, false},
		"greeting elsewhere": {"user:secret", func(g *guarded,
			thief string) {
			g.greeting = redirect("/v2/", thief, 302)
		}, false},
		"token server on http": {"user:secret", func(g *guarded,
			_ string) {
			g.realm = "http://tokens.example/token"
		}, false},
		"honest": {"user:secret", func(*guarded, string) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, true)
			var mu sync.Mutex
			var stolen []string
			inner := g.inner
			thief := secure(t, func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				mu.Lock()
				defer mu.Unlock()
				if req.Header.Get("Authorization") != "" || len(body) > 0 {
					stolen = append(stolen, req.Method+" "+req.URL.Path+" "+req.Header.Get("Authorization")+string(body))
				}
				if req.URL.Path == "/v2/" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="thief"`,
						strings.Replace(req.Host, "127.0.0.1", "localhost", 1)))
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				inner.ServeHTTP(w, req)
			})
			c.trick(g, named(thief))
			r, err := Open(t.Context(), host(g.Server)+"/lab/tool:1.0", g.user(t, c.user, thief))
			if err == nil {
				defer r.Close()
				readAll(t, r)
			}
			if (err == nil) != c.works || (err != nil && fault.Hint(err) == "") {
				t.Errorf("%v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(stolen) > 0 {
				t.Errorf("stolen: %q", stolen)
			}
		})
	}
}

// TestWire: what is spoken to whom.
func TestWire(t *testing.T) {
	t.Parallel()
	named := http.Header{"Www-Authenticate": {`Bearer realm="https://auth.example/token",service="x"`}}
	for _, c := range []struct {
		registry, url string
		secret        bool
		want          error
	}{
		{"registry.example", "https://registry.example/v2/", true, nil},
		{"registry.example", "https://storage.example/blob", false, nil},
		{"registry.example", "https://storage.example/blob", true, errElsewhere},
		{"registry.example", "https://registry.example:444/v2/", true, errElsewhere},
		{"registry.example", "https://auth.example/token", true, nil},
		{"registry.example", "http://auth.example/token", true, errPlain},
		{"registry.example", "http://registry.example/v2/", false, errPlain},
		{"registry.example", "http://127.0.0.1/v2/", false, errPlain}, // from outside into this machine
		{"192.168.1.2:5000", "http://192.168.1.2:5000/v2/", false, errPlain},
		{"registry.local", "http://registry.local/v2/", false, errPlain},
		{"localhost.example", "http://localhost.example/v2/", false, errPlain},
		{"localhost:5000", "http://localhost:5000/v2/", true, nil},
		{"127.0.0.2:5000", "http://127.0.0.2:5000/v2/", true, nil},
		{"[::1]:5000", "http://[::1]:5000/v2/", true, nil},
		{"localhost:5000", "http://storage.example/blob", false, errPlain},
		{"localhost:5000", "http://localhost:5001/blob", true, errElsewhere},
		{"registry.example", "file:///etc/passwd", false, errPlain},
	} {
		w := &wire{host: c.registry}
		w.learn(named)
		req, err := http.NewRequest(http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.secret {
			req.Header.Set("Authorization", "Basic dTpw")
		}
		if err := w.check(req); err != c.want {
			t.Errorf("%s of %s, secret %v: %v", c.url, c.registry, c.secret, err)
		}
	}
}

// TestKeychain: which of the user's files counts, and by which of its names.
func TestKeychain(t *testing.T) {
	t.Parallel()
	const config, podman, docker = "/.config/containers/auth.json", "/run/containers/auth.json",
		"/.docker/config.json"
	for name, c := range map[string]struct {
		files map[string]map[string]string // by path below the home directory
		vars  map[string]string
		ref   string
		want  string
	}{
		"nothing": {nil, nil, "debian", ""},
		"Docker's Hub": {map[string]map[string]string{docker: {"https://index.docker.io/v1/": "a:1"}}, nil,
			"debian", "a:1"},
		"Podman's Hub": {map[string]map[string]string{podman: {"docker.io": "a:1"}}, nil, "debian", "a:1"},
		"Podman's first": {map[string]map[string]string{podman: {"quay.io": "a:1"}, docker: {"quay.io": "b:2"}},
			nil, "quay.io/x/y", "a:1"},
		"Docker's has another": {map[string]map[string]string{docker: {"ghcr.io": "b:2"}, config: {"quay.io": "a:1"}},
			nil, "quay.io/x/y", "a:1"},
		"by name": {map[string]map[string]string{podman: {"quay.io": "a:1", "quay.io/x": "b:2",
			"quay.io/x/y": "c:3"}}, nil, "quay.io/x/y", "c:3"},
		"by half a name": {map[string]map[string]string{podman: {"quay.io": "a:1", "quay.io/x": "b:2",
			"quay.io/xx": "c:3"}}, nil, "quay.io/x/y", "b:2"},
		"not another's name": {map[string]map[string]string{podman: {"quay.io/z": "a:1"}}, nil, "quay.io/x/y", ""},
		"not another port's": {map[string]map[string]string{podman: {"r.lab:5000": "a:1"}}, nil, "r.lab/x/y", ""},
		"old names": {map[string]map[string]string{docker: {"https://r.lab:5000/v2/": "a:1"}}, nil,
			"r.lab:5000/x/y", "a:1"},
		"DOCKER_CONFIG": {map[string]map[string]string{docker: {"quay.io": "a:1"},
			"/dc/config.json": {"quay.io": "b:2"}}, map[string]string{"DOCKER_CONFIG": "/dc"}, "quay.io/x/y", "b:2"},
		"REGISTRY_AUTH_FILE": {map[string]map[string]string{podman: {"quay.io": "a:1"},
			"/mine": {"quay.io": "b:2"}}, map[string]string{"REGISTRY_AUTH_FILE": "/mine"}, "quay.io/x/y", "b:2"},
		"identity token": {map[string]map[string]string{docker: {"quay.io": "token t"}}, nil, "quay.io/x/y",
			"token t"},
	} {
		home := t.TempDir()
		vars := map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home + "/run"}
		for k, v := range c.vars {
			vars[k] = home + v
		}
		for path, users := range c.files {
			write(t, home+path, logins(users))
		}
		ref, err := ParseReference(c.ref)
		if err != nil {
			t.Fatal(err)
		}
		l, err := keychain{getenv: env(vars), uid: 1 << 30, log: slog.New(slog.DiscardHandler)}.find(ref.repo)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := l.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		got := a.Username + ":" + a.Password
		if a.IdentityToken != "" {
			got = "token " + a.IdentityToken
		}
		if strings.Trim(got, ":") != c.want || (l.from == "") != (c.want == "") {
			t.Errorf("%s: %q from %q", name, got, l.from)
		}
	}
}

// TestKeychainErrors: files that cannot be used are named, and one that others can write is not used.
func TestKeychainErrors(t *testing.T) {
	t.Parallel()
	ref, _ := ParseReference("quay.io/x/y")
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		says    string
	}{
		"no JSON":   {"{", 0o600, "config.json cannot be read"},
		"no base64": {`{"auths": {"quay.io": {"auth": "%%%"}}}`, 0o600, "config.json cannot be read"},
		"no helper": {`{"credHelpers": {"quay.io": "no-such-helper"}}`, 0o600,
			"docker-credential-no-such-helper"},
		"another's":     {logins(map[string]string{"quay.io": "a:1"}), 0o666, ""},
		"other helpers": {`{"credHelpers": {"ghcr.io": "no-such-helper"}}`, 0o600, ""},
		"empty":         {"", 0o600, ""},
	} {
		home := t.TempDir()
		path := home + "/.docker/config.json"
		write(t, path, c.content)
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		l, err := keychain{getenv: env(map[string]string{"HOME": home}), uid: 1 << 30,
			log: slog.New(slog.DiscardHandler)}.find(ref.repo)
		if c.says == "" {
			if err != nil || l.from != "" {
				t.Errorf("%s: %q, %v", name, l.from, err)
			}
			continue
		}
		check(t, err, fault.Config, c.says)
	}
}

// TestCredentialHelper: a helper program in the PATH is asked, which may answer with an identity token. It changes
// the environment, and so is not parallel.
func TestCredentialHelper(t *testing.T) {
	home := t.TempDir()
	write(t, home+"/bin/docker-credential-tests", "#!/bin/sh\nread host\ncase $host in\n"+
		"quay.io) echo '{\"Username\":\"a\",\"Secret\":\"1\"}' ;;\n"+
		"https://index.docker.io/v1/) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}' ;;\n"+
		"*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n")
	if err := os.Chmod(home+"/bin/docker-credential-tests", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", home+"/bin:"+os.Getenv("PATH"))
	for _, config := range []string{`{"credsStore": "tests"}`,
		`{"credHelpers": {"quay.io": "tests", "docker.io": "tests", "https://index.docker.io/v1/": "tests"}}`} {
		write(t, home+"/.docker/config.json", config)
		for name, want := range map[string]string{"quay.io/x/y": "a:1 ", "debian": ": t", "ghcr.io/x/y": ": "} {
			ref, err := ParseReference(name)
			if err != nil {
				t.Fatal(err)
			}
			l, err := keychain{getenv: env(map[string]string{"HOME": home}), uid: 1 << 30}.find(ref.repo)
			if err != nil {
				t.Fatal(err)
			}
			if a, err := l.Authorization(); err != nil ||
				strings.TrimPrefix(a.Username, "<token>")+":"+a.Password+" "+a.IdentityToken != want {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
		}
	}
}
