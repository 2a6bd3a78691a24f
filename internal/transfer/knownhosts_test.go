package transfer

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Which lines of known_hosts are about a host, as ssh reads them.
func TestKnownKeys(t *testing.T) {
	t.Parallel()
	key := strings.TrimSpace(readString(t, userKey(t)+".pub"))
	hashed := knownHosts(t, "hashed.example.org "+key, "[hashed.example.org]:2222 "+key)
	keygen(t, "-H", "-f", hashed)
	file := knownHosts(t,
		"# a comment", "", "login.example.org,192.0.2.1 "+key, "LOGIN.example.org "+key, "*.example.org,!login.example.org "+key,
		"[login.example.org]:2222 "+key, "[*.example.org]:* "+key, "@revoked * "+key, "  \t@cert-authority *.example.org "+key+" comment",
		"login.example.org", "login.example.org nonsense", "@marker login.example.org "+key, "login.example.org 1024 35 1234567",
		"other.example.org nonsense", "login?example?org "+key+"\r", "|1|!|! "+key, "@revoked")
	for _, c := range []struct{ address, want, bad string }{
		{"login.example.org:22", "3 4 8revoked 9cert-authority 15", "10 11 12 13 17"},
		{"Login.Example.ORG:22", "3 4 8revoked 9cert-authority 15", "10 11 12 13 17"},
		{"login.example.org:2222", "3bare 4bare 6 7 8revoked 9cert-authority-bare 15bare", "10 11 12 13 17"},
		{"192.0.2.1:22", "3 8revoked", "17"},
		{"x.example.org:22", "5 8revoked 9cert-authority", "17"},
		{"x.example.org:1", "5bare 7 8revoked 9cert-authority-bare", "17"},
		{"nowhere:22", "8revoked", "17"},
		{"hashed.example.org:22", "5 8revoked 9cert-authority 1", "17"},
		{"hashed.example.org:2222", "5bare 7 8revoked 9cert-authority-bare 1bare 2", "17"},
	} {
		keys, bad, err := knownKeys([]string{"/nonexistent/file", "/dev/null", file, hashed}, c.address)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			what := k.marker
			if k.bare {
				what = strings.TrimPrefix(what+"-bare", "-")
			}
			got = append(got, fmt.Sprint(k.line)+what)
		}
		for i := range bad {
			bad[i] = bad[i][strings.LastIndexByte(bad[i], ':')+1:]
		}
		if g, b := strings.Join(got, " "), strings.Join(bad, " "); g != c.want || b != c.bad {
			t.Errorf("%s: lines %s, bad %s; want %s, bad %s", c.address, g, b, c.want, c.bad)
		}
	}
}

// A file that cannot be read is passed over and named; /dev/null knows nothing.
func TestKnownHostsFiles(t *testing.T) {
	t.Parallel()
	keys, bad, err := knownKeys([]string{"/dev/null", "/", "/nonexistent"}, "h:22")
	if len(keys) != 0 || strings.Join(bad, " ") != "/" || err != nil {
		t.Errorf("%v, %v, %v", keys, bad, err)
	}
}

// A line that names the host without its port counts where none names it with that, as for ssh: its key is
// accepted, and another is unknown, not changed.
func TestHostKeyWithoutPort(t *testing.T) {
	t.Parallel()
	parse := func(file string) ssh.PublicKey {
		key, err := readPublicKey(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	one, other := userKey(t), userKey(t)
	known := knownHosts(t, "login "+readString(t, one+".pub"))
	h, err := newHostKeys(&target{host: "login", port: 2222, knownHosts: []string{known}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.check("", nil, parse(one)); err != nil {
		t.Errorf("the key without the port: %v", err)
	}
	if err := h.check("", nil, parse(other)); err == nil || !strings.Contains(err.Error(), "is unknown") {
		t.Errorf("another key: %v", err)
	}
}

// No line of known_hosts panics, and one that counts has a key.
func FuzzKnownHosts(f *testing.F) {
	for _, s := range []string{"h ssh-ed25519 AAAA", "@revoked * x", "|1|a|b x", "[h]:1,!x k", "@", "@cert-authority"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var k knownKey
		if found, err := k.parse(line, "[h]:1", "h"); found && (err != nil || k.key == nil) {
			t.Errorf("%q: %v", line, err)
		}
	})
}
