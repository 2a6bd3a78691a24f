package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// sshTakes reports whether ssh takes the server's host key, and logs in.
func sshTakes(t *testing.T, o Options, settings ...string) bool {
	t.Helper()
	args := []string{"-F", o.ConfigFile, "-i", o.Keys[0], "-p", fmt.Sprint(o.Port), "-l", o.User}
	for _, s := range append(settings, "BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=none",
		"UserKnownHostsFile="+o.KnownHosts[0]) {
		args = append(args, "-o", s)
	}
	out, err := exec.Command("ssh", append(args, o.Host, "true")...).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Host key verification failed") {
		t.Fatalf("ssh: %v: %s", err, out)
	}
	return err == nil
}

// Behind a forwarded port is another host than at port 22: where lines name the host with its port, those alone say
// which key it has, as for ssh.
func TestHostKeyOfPort(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	o := reach(t, s)
	own, other := readString(t, s.hostKey("ed25519")+".pub"), readString(t, userKey(t)+".pub")
	rsa := readString(t, userKey(t, "-t", "rsa")+".pub")
	full, bare := s.name()+" ", "127.0.0.1 "
	for i, c := range []struct {
		lines []string
		want  error
	}{
		{[]string{full + other, bare + own}, ErrHostKeyChanged},
		{[]string{bare + own}, nil},
		{[]string{"@cert-authority " + full + other, bare + own}, nil},
		{[]string{full + own, bare + other}, nil},
		{[]string{bare + other, bare + own}, nil},
		{[]string{bare + own, full + other}, ErrHostKeyChanged},
		{[]string{full + rsa, bare + own}, ErrHostKeyChanged},
		{[]string{bare + other}, ErrHostKeyUnknown},
		{[]string{"@revoked " + bare + own, bare + own}, ErrHostKeyChanged},
		{[]string{"@revoked " + full + own, bare + own}, ErrHostKeyChanged},
	} {
		o.KnownHosts = []string{knownHosts(t, c.lines...)}
		client, err := Dial(t.Context(), o)
		if err == nil {
			_ = client.Close()
		}
		if (c.want == nil) != (err == nil) || !errors.Is(err, c.want) {
			t.Errorf("%q: %v", c.lines, err)
		}
		if i >= 3 { // the others' answers have been compared once, and take time
			continue
		}
		if got := sshTakes(t, o); got != (c.want == nil) {
			t.Errorf("%q: ssh takes the key: %v", c.lines, got)
		}
	}
	// ssh no longer sees a bare line that revokes a key; here it still counts.
	o.KnownHosts = []string{knownHosts(t, full+own, "@revoked "+bare+own)}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyChanged) {
		t.Errorf("revoked without the port: %v", err)
	}
}

// A key that a list of RevokedHostKeys has is refused, and so is every key where the list cannot be used, as by ssh.
func TestRevokedHostKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	o := reach(t, s)
	own, other := readString(t, s.hostKey("ed25519")+".pub"), readString(t, userKey(t)+".pub")
	krl := filepath.Join(t.TempDir(), "krl")
	if out, err := exec.Command("ssh-keygen", "-q", "-k", "-f", krl, userKey(t)+".pub").CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	for name, c := range map[string]struct {
		list, says, next string
		kind             error
	}{
		"another key":     {"# a list\n\n  " + other + "\r\n", "", "", nil},
		"nothing":         {"", "", "", nil},
		"the key":         {other + "\n" + own + "\n", "list:2 marks as revoked", "do not log in", ErrHostKeyChanged},
		"KRL":             {readString(t, krl), "KRL", "one a line", ErrConfig},
		"words":           {other + "\nnonsense\n", "line 2 is not a public key", "one a line", ErrConfig},
		"options":         {"no-pty " + other, "line 1 is not a public key", "one a line", ErrConfig},
		"another type":    {strings.Replace(other, "ssh-ed25519", "ssh-rsa", 1), "line 1", "one a line", ErrConfig},
		"half a key":      {own[:40], "line 1", "one a line", ErrConfig},
		"no such file":    {"-", "list cannot be used", "RevokedHostKeys in ssh_config", ErrConfig},
		"a variable":      {"$", "has no value", "ssh -v", ErrConfig},
		"the key, spaced": {"\t" + strings.Join(strings.Fields(own)[:2], "   "), "list:1", "do not log in", ErrHostKeyChanged},
	} {
		list := filepath.Join(t.TempDir(), "127.0.0.1-list")
		named := strings.ReplaceAll(list, "127.0.0.1", "%h")
		switch c.list {
		case "-":
		case "$":
			named = "${SEALBATCH_NO_SUCH_VARIABLE}/list"
		default:
			writeFile(t, list, c.list)
		}
		o.ConfigFile = filepath.Join(t.TempDir(), "config")
		writeFile(t, o.ConfigFile, "IdentityAgent none\nRevokedHostKeys "+named+"\nRevokedHostKeys none\n")
		client, err := Dial(t.Context(), o)
		if err == nil {
			_ = client.Close()
		}
		if (c.kind == nil) != (err == nil) || !errors.Is(err, c.kind) ||
			err != nil && (!strings.Contains(err.Error(), c.says) || !strings.Contains(fault.Hint(err), c.next)) {
			t.Errorf("%s: %v; hint: %s", name, err, fault.Hint(err))
		}
		if name != "another key" && name != "the key" && name != "words" {
			continue // before 9.4 ssh knew no variables and tokens there
		}
		if got := sshTakes(t, o, "RevokedHostKeys="+list); got != (c.kind == nil) {
			t.Errorf("%s: ssh takes the key: %v", name, got)
		}
	}
}

// A certificate of a key that is revoked, or of a revoked authority, is refused whatever vouches for it.
func TestRevokedCertificate(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	ca := userKey(t)
	keygen(t, "-s", ca, "-I", "host", "-h", "-n", "127.0.0.1", s.hostKey("ed25519")+".pub")
	cert, err := readPublicKey(s.hostKey("ed25519") + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	known := knownHosts(t, "@cert-authority "+s.name()+" "+readString(t, ca+".pub"))
	for name, list := range map[string]string{
		"": userKey(t) + ".pub", "the key": s.hostKey("ed25519") + ".pub", "the authority": ca + ".pub",
		"a certificate of the key": s.hostKey("ed25519") + "-cert.pub",
	} {
		h, err := newHostKeys(&target{host: "127.0.0.1", port: s.addr.Port, knownHosts: []string{known}, revoked: []string{list}})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.check("", nil, cert); (name == "") != (err == nil) || err != nil && !errors.Is(err, ErrHostKeyChanged) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// No line of a list panics, and one that counts has a key.
func FuzzRevoked(f *testing.F) {
	for _, s := range []string{"", "ssh-ed25519 AAAA", "# x", "ssh-rsa AAAAB3NzaC1yc2E= c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		key, err := publicKey(bytes.Fields(line))
		if (err == nil) == (key == nil) || key != nil && len(plain(key).Marshal()) == 0 {
			t.Errorf("%q: %v, %v", line, key, err)
		}
	})
}
