package registry

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

func TestParseMirror(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Mirror{
		"docker.io=https://mirror.example":     {"docker.io", "mirror.example"},
		"docker.io = mirror.example:5000/hub/": {"docker.io", "mirror.example:5000/hub"},
		"quay.io/bio=http://localhost:5000/q":  {"quay.io/bio", "localhost:5000/q"},
		"":                                     {}, "docker.io": {}, "docker.io=": {}, "=x.example": {},
		"docker.io=http://mirror.example": {},
		"docker.io=ftp://mirror.example":  {}, "docker.io=https://user:pw@mirror.example": {},
		"docker.io=https://m.example/?x": {}, "docker.io=UPPER/Case": {},
	} {
		got, err := ParseMirror(s)
		if got != want || (err != nil) != (want == Mirror{}) ||
			(err != nil && (fault.ClassOf(err) != fault.Config || fault.Hint(err) == "")) {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

// TestMirrors: a mirror is asked first and serves all; one that has not got the image, lies, or breaks off is passed over
// for the registry.
func TestMirrors(t *testing.T) {
	t.Parallel()
	img := picture(t, 2, 100_000)
	for name, c := range map[string]struct {
		fault  faulty // of the mirror
		has    bool   // it has the image
		origin bool   // the registry is asked
	}{
		"has it":     {nil, true, false},
		"has it not": {nil, false, true},
		"wants a login": {func(w http.ResponseWriter, _ *http.Request,
			_ http.Handler) {
			w.WriteHeader(http.StatusForbidden)
		}, true, true},
		"lies in layers": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isGet(req, blobPath) {
				w.Write(make([]byte, 1000))
				return
			}
			next.ServeHTTP(w, req)
		}, true, true},
		"breaks off": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isGet(req, blobPath) && req.Header.Get("Range") != "" {
				panic(http.ErrAbortHandler)
			}
			if isGet(req, blobPath) {
				next.ServeHTTP(&cut{w, 70_000, new(atomic.Int64)}, req)
				return
			}
			next.ServeHTTP(w, req)
		}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var armed atomic.Bool
			mirror := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if c.fault != nil && armed.Load() {
					c.fault(w, req, next)
					return
				}
				next.ServeHTTP(w, req)
			}).wrap)
			var asked atomic.Int64
			origin := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				asked.Add(1)
				next.ServeHTTP(w, req)
			}).wrap)
			digest := push(t, host(origin)+"/lab/tool:1.0", img)
			if c.has {
				push(t, host(mirror)+"/copies/lab/tool:1.0", img)
			}
			armed.Store(true)
			asked.Store(0)
			for _, configured := range []bool{true, false} {
				o := options(t)
				if configured {
					o.Mirrors = []Mirror{{"elsewhere.example", "nowhere.example"},
						{host(origin), host(mirror) + "/copies"}}
				} else {
					write(t, o.Getenv("HOME")+"/.config/containers/registries.conf",
						"[[registry]]\nlocation = '"+host(origin)+"'\n[[registry.mirror]]\nlocation = '"+host(mirror)+"/copies'\n")
				}
				r := open(t, host(origin)+"/lab/tool:1.0", o)
				readAll(t, r)
				if r.Digest != digest || r.Reference.Host() != host(origin) {
					t.Errorf("%s is %s", r.Reference, r.Digest)
				}
			}
			if (asked.Load() > 0) != c.origin {
				t.Errorf("the registry was asked %d times", asked.Load())
			}
		})
	}
}

// TestRules: what registries.conf says of names.
func TestRules(t *testing.T) {
	t.Parallel()
	const conf = `
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
location = "registry-1.docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
[[registry.mirror]]
location = "insecure.example"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "quay.io/bad"
blocked = true
[[registry]]
prefix = "*.example.org"
location = "left.alone"
[[registry]]
location = "quay.io"
[[registry.mirror]]
location = "q.example"
`
	pinned := "@sha256:" + strings.Repeat("a", 64)
	for ref, want := range map[string]string{
		"debian":                 "mirror.example/hub/library/debian registry-1.docker.io/library/debian",
		"lab/tool" + pinned:      "mirror.example/hub/lab/tool digests.example/lab/tool registry-1.docker.io/lab/tool",
		"quay.io/good/x":         "q.example/good/x quay.io/good/x",
		"quay.io/bad/x":          "blocked",
		"quay.io/badly/x":        "q.example/badly/x quay.io/badly/x",
		"registry.example.org/x": "registry.example.org/x",
		"quay.io.example/x":      "quay.io.example/x",
	} {
		home := t.TempDir()
		write(t, home+"/registries.conf", conf)
		parsed, err := ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		r := &Remote{Reference: parsed, o: Options{Getenv: env(map[string]string{"CONTAINERS_REGISTRIES_CONF": home +
			"/registries.conf"})}}
		places, err := r.wanted()
		var got []string
		for _, s := range places {
			got = append(got, s.host()+"/"+s.repo.RepositoryStr())
		}
		if err != nil {
			got = []string{"blocked"}
			check(t, err, fault.Config, "registries.conf blocks quay.io/bad")
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s", ref, s)
		}
	}
	home := t.TempDir()
	for content, says := range map[string]string{"[[registry]": "cannot be read", "registry = 5": "cannot be read"} {
		write(t, home+"/.config/containers/registries.conf", content)
		_, err := rules(env(map[string]string{"HOME": home}))
		check(t, err, fault.Config, says)
	}
}
