package sshconfig

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sections returns the parts of a file that begin with "== NAME", in which dir stands for @DIR@.
func sections(t *testing.T, file, dir string) (names []string, text map[string]string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := strings.NewReplacer("@DIR@", dir, "<CR>", "\r", "<FF>", "\f", "<BOM>", "\ufeff").Replace(string(b))
	text = map[string]string{}
	for _, part := range strings.Split("\n"+s, "\n== ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		names = append(names, name)
		text[name] = rest
	}
	return names, text
}

// query reads what a section's name says after its last ": ", as ssh would.
func query(t *testing.T, arguments, file string) Query {
	t.Helper()
	q := Query{File: file}
	words := strings.Fields(arguments)
	for len(words) > 1 {
		switch words[0] {
		case "-l":
			q.User = words[1]
		case "-p":
			q.Port, _ = strconv.Atoi(words[1])
		}
		words = words[2:]
	}
	q.Host = words[0]
	if login, host, ok := strings.Cut(q.Host, "@"); ok { // the caller takes it apart
		q.User, q.Host = login, host
	}
	return q
}

// comparable returns what both readers say. ssh's own default keys differ by how it was built.
func comparable(v Values) map[string]string {
	out := map[string]string{}
	for keyword := range Keywords {
		values := slices.DeleteFunc(slices.Clone(v[keyword]), func(s string) bool {
			return strings.HasSuffix(s, "/id_xmss") || strings.HasSuffix(s, "/id_dsa")
		})
		switch keyword {
		case "canonicaldomains", "canonicalizemaxdots", "tag": // ssh -G has defaults of its own
			continue
		case "proxycommand":
			if v.Get(keyword) == "none" {
				continue
			}
		case "proxyjump":
			if strings.EqualFold(v.Get(keyword), "none") {
				continue
			}
		}
		if len(values) > 0 {
			out[keyword] = strings.Join(values, " ")
		}
	}
	return out
}

func TestReadAgreesWithSSH(t *testing.T) {
	t.Parallel()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, included := sections(t, "testdata/include.txt", dir)
	for name, text := range included {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, text := sections(t, "testdata/corpus.txt", dir)
	bad := 0
	for _, name := range names {
		file := filepath.Join(dir, "config")
		if err := os.WriteFile(file, []byte(text[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		colon := strings.Index(name, ": ")
		if strings.HasPrefix(name, "bad: ") {
			colon = strings.LastIndex(name, ": ")
		}
		q := query(t, name[colon+2:], file)
		want, sshErr := ask(t.Context(), ssh, q)
		got, err := Read(t.Context(), q)
		if strings.HasPrefix(name, "bad: ") {
			bad++
			if sshErr == nil || err == nil || !errors.Is(err, ErrConfig) || !errors.Is(sshErr, ErrConfig) {
				t.Errorf("%s: ssh says %v, Read says %v", name, sshErr, err)
			}
			continue
		}
		if sshErr != nil || err != nil {
			t.Errorf("%s: ssh says %v, Read says %v", name, sshErr, err)
			continue
		}
		if g, w := comparable(got), comparable(want); !maps.Equal(g, w) {
			for keyword := range Keywords {
				if g[keyword] != w[keyword] {
					t.Errorf("%s: %s: Read says %q, ssh says %q", name, keyword, g[keyword], w[keyword])
				}
			}
		}
	}
	if len(names)-bad < 60 || bad < 10 {
		t.Errorf("%d configurations, of which %d are bad", len(names), bad)
	}
}

// What this machine's ssh may not know yet, and what only ssh can find out: that is an error only where it matters.
func TestReadBeyondSSH(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config")
	read := func(text string) (Values, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Read(t.Context(), Query{Host: "h", File: file})
	}
	for text, want := range map[string]string{
		"Tag site\nMatch tagged site,other\n  Port 7\n":                    "7",
		"Match tagged site\n  Port 7\n":                                    "22",
		"Match host other localnetwork 192.0.2.0/24\n  Port 7\n":           "22",
		"SomethingNew yes no maybe\nPort 7\n":                              "7",
		"Host other\n  Match-is-no-keyword\n":                              "",
		"Match localnetwork 192.0.2.0/24\n  Port 7\n":                      "",
		"Include ${SEALBATCH_NO_SUCH_VARIABLE}/x\n":                        "",
		"Match exec \"sleep 0; test ${HOME} && exit 0\"\n  Port 7\n":       "7",
		"Match exec \"kill -9 $$\"\n  Port 7\n":                            "22",
		"CanonicalizeHostname yes\nCanonicalDomains invalid.\nPort 7\n":    "7",
		"CanonicalizeHostname always\nProxyJump a\nMatch final\n Port 8\n": "8",
	} {
		v, err := read(text)
		if (want == "") != (err != nil) || err != nil && !errors.Is(err, ErrConfig) || err == nil && v.Get("port") != want {
			t.Errorf("%q: port %s, %v; want %q", text, v.Get("port"), err, want)
		}
	}
}
