package sshconfig

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Names that ssh does not take on its command line, and those that sites have.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "-oProxyCommand=x", "a b", "a\tb", "a;b", "a$b", "a`b", `a\b`, "a'b", `a"b`, "a&b", "a|b", "a<b",
		"a>b", "a(b", "a{b", "a,b", "a\nb", "a\x7fb", "a\u2028b"} {
		if err := CheckHost(name); !errors.Is(err, ErrConfig) {
			t.Errorf("host %q: %v", name, err)
		}
	}
	for _, name := range []string{"login", "Login.Example.ORG", "2001:db8::7", "fe80::1%eth0", "login_1-x", "höst.example"} {
		if err := CheckHost(name); err != nil {
			t.Errorf("host %q: %v", name, err)
		}
	}
	for _, name := range []string{"-l", "a -b", "a\u00a0-b", "a;b", "a`b", "a'b", `a"b`, "a&b", "a|b", "a<b", "a(b", "a}b", "a\nb", `a\`} {
		if err := CheckUser(name); !errors.Is(err, ErrConfig) {
			t.Errorf("user %q: %v", name, err)
		}
	}
	for _, name := range []string{"", "alice", `DOM\alice`, "alice@example.org", "a b", "a-b", "a$"} {
		if err := CheckUser(name); err != nil {
			t.Errorf("user %q: %v", name, err)
		}
	}
}

// No name reaches the shell of Match exec that could be more than a name there, whoever reads the configuration.
func TestNamesForShell(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, mark := filepath.Join(dir, "config"), filepath.Join(dir, "mark")
	text := "Match exec \"true %n %h %k %r\"\n  HostName good.example.org\nMatch all\n  ProxyCommand nc %n %p\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, q := range []Query{{Host: "x;touch${IFS}" + mark + ";"}, {Host: "x", User: "x;touch " + mark + ";"}} {
		q.File = file
		if _, err := Read(t.Context(), q); !errors.Is(err, ErrConfig) {
			t.Errorf("Read takes %q %q: %v", q.Host, q.User, err)
		}
		if _, err := Look(t.Context(), q); !errors.Is(err, ErrConfig) {
			t.Errorf("Look takes %q %q: %v", q.Host, q.User, err)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a name was run as a command")
	}
	if v, err := Read(t.Context(), Query{Host: "x", User: `DOM\alice`, File: file}); err != nil || v.Get("hostname") != "good.example.org" {
		t.Errorf("control: %q, %v", v, err)
	}
}
