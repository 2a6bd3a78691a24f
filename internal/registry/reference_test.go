package registry

import (
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for s, want := range map[string]string{
		"jp2a":                                            "docker.io/library/jp2a:latest",
		"talinx/jp2a":                                     "docker.io/talinx/jp2a:latest",
		"docker://talinx/jp2a":                            "docker.io/talinx/jp2a:latest",
		"docker.io/talinx/jp2a:1.0":                       "docker.io/talinx/jp2a:1.0",
		"index.docker.io/debian:13":                       "docker.io/library/debian:13",
		"docker.io/library/debian":                        "docker.io/library/debian:latest",
		"talinx/jp2a" + digest:                            "docker.io/talinx/jp2a" + digest,
		"talinx/jp2a:latest" + digest:                     "docker.io/talinx/jp2a:latest" + digest,
		"localhost:5000/a/b/c:x":                          "localhost:5000/a/b/c:x",
		"localhost/a":                                     "localhost/a:latest",
		"[::1]:5000/a":                                    "[::1]:5000/a:latest",
		"registry.lab:5000/a_b/c-d.e:V_1.0-":              "registry.lab:5000/a_b/c-d.e:V_1.0-",
		"quay.io/biocontainers/samtools:1.21--h50ea8bc_0": "quay.io/biocontainers/samtools:1.21--h50ea8bc_0",
	} {
		r, err := ParseReference(s)
		if err != nil || r.String() != want {
			t.Errorf("%s: %s, %v", s, r, err)
		}
		if again, err := ParseReference(r.String()); err != nil || again != r {
			t.Errorf("%s, which is %s, is then %s, %v", s, r, again, err)
		}
	}
	for _, s := range []string{
		"", "docker://", "UPPER/case", "a b", "a:b:c", "-", "a@sha256:123", "a@sha512:" + strings.Repeat("0a", 64),
		"a@b@c", "a" + digest + digest,
		"https://docker.io/debian", "library://sylabs/examples/lolcow", "oras://x/y", "a/../b", "a/./b", "a//b",
		"a/-b", "a/b.", "registry.lab:5000/", "a\x1b[2J", "registry.lab:port/a",
		strings.Repeat("a", 300), "a:" + strings.Repeat("a", 129),
	} {
		r, err := ParseReference(s)
		if err == nil || fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" ||
			strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%q: %s, %v", s, r, err)
		}
	}
}

// FuzzParseReference: what is taken comes out the same when it is read again, and leads to a host that can be reached.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"jp2a", "docker://a/b:c", "localhost:5000/a@sha256:" + strings.Repeat("0", 64),
		"[::1]:5000/a", "a.b/c:d@e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %s, and that is %s, %v", s, r, again, err)
		}
		if r.Host() == "" || strings.ContainsAny(r.Host(), "/@ \x00") || r.identifier() == "" {
			t.Errorf("%q leads to %q", s, r.Host())
		}
	})
}

// FuzzRules: no registries.conf sends an image to a place that is no repository's, or stops the program.
func FuzzRules(f *testing.F) {
	f.Add("[[registry]]\nprefix='docker.io'\nlocation='a.b'\n[[registry.mirror]]\nlocation='c.d/e'\n",
		"docker.io=https://m.example")
	f.Add("[[registry]]\nlocation='quay.io'\nblocked=true", "quay.io/x=localhost:1")
	ref, err := ParseReference("debian")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, conf, mirror string) {
		if m, err := ParseMirror(mirror); err == nil {
			if again, err := ParseMirror(m.Of + "=" + m.At); err != nil || again != m {
				t.Errorf("%q is %+v, and that is %+v, %v", mirror, m, again, err)
			}
		}
		all, err := parseRules([]byte(conf))
		if err != nil {
			return
		}
		mirrors, registry, err := follow(ref, all)
		if err != nil {
			return
		}
		for _, r := range append(mirrors, registry) {
			if r.RegistryStr() == "" || r.RepositoryStr() == "" {
				t.Errorf("%q leads to %q", conf, r)
			}
		}
	})
}
