package volume

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
)

// TestIdentitiesInPEM: keys in every shape that ssh-keygen writes open volumes, with the public half beside them
// or not; the passphrase is asked for once, and not at all for a volume that is for somebody else.
func TestIdentitiesInPEM(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{"PEM", "PKCS8"} {
		path := filepath.Join(t.TempDir(), "id")
		out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-m", shape, "-N", "correct horse", "-f", path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		rcpts, err := ParseRecipients([]string{path + ".pub"})
		must(t, err)
		for _, alone := range []bool{false, true} {
			if alone {
				must(t, os.Remove(path+".pub"))
			}
			key, err := NewKey()
			must(t, err)
			var mine, others bytes.Buffer
			must(t, WrapKey(&mine, ID{1}, key, rcpts...))
			must(t, WrapKey(&others, ID{1}, key, newIdentity(t).Recipient()))
			asked, phrase := 0, "wrong"
			ids, err := ParseIdentityFile(path, func() ([]byte, error) { asked++; return []byte(phrase), nil }, nil)
			must(t, err)
			if _, _, err := ReadKey(bytes.NewReader(others.Bytes()), ids...); !errors.Is(err, ErrNoIdentity) || asked != 0 {
				t.Errorf("%s, alone %t, a volume of others: %v, asked %d times", shape, alone, err, asked)
			}
			if _, _, err := ReadKey(bytes.NewReader(mine.Bytes()), ids...); !errors.Is(err, ErrIdentity) || asked != 1 {
				t.Errorf("%s, alone %t, wrong passphrase: %v, asked %d times", shape, alone, err, asked)
			}
			phrase = "correct horse"
			for range 2 {
				if _, got, err := ReadKey(bytes.NewReader(mine.Bytes()), ids...); err != nil || !got.Equal(key) || asked != 2 {
					t.Errorf("%s, alone %t: %v, asked %d times", shape, alone, err, asked)
				}
			}
		}
	}
}

// securityKey returns a public key of a security key (PROTOCOL.u2f).
func securityKey(t *testing.T) string {
	t.Helper()
	type wire struct {
		Type        string
		Key         []byte
		Application string
	}
	k, err := ssh.ParsePublicKey(ssh.Marshal(wire{ssh.KeyAlgoSKED25519, bytes.Repeat([]byte{7}, 32), "ssh:"}))
	must(t, err)
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// TestRecipientsLists: lists as people have them, from authorized_keys files and web pages.
func TestRecipientsLists(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ecKey, err := ssh.NewPublicKey(&ec.PublicKey)
	must(t, err)
	ecPub := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ecKey))) + " bob@home"
	_, a := sshKey(t, "")
	_, b := sshKey(t, "")
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "list")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"options":    {`restrict,command="echo \"hello\"",from="192.0.2.0/24" ` + a + "\nno-pty\t" + b + "\n", []string{a, b}},
		"mark, CRLF": {"\ufeff" + a + "\r\n\r\n# b's\r\n" + b + "\r\n", []string{a, b}},
		"blanks":     {"  " + a + "  \n\t" + b, []string{a, b}},
		"comments":   {a + " of the \"old\" laptop # yes\n", []string{a + " of the \"old\" laptop # yes"}},
	} {
		got, err := ReadRecipients(file(c.text), nil, nil)
		if err != nil || strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	mixed := file(a + "\n" + ecPub + "\n" + securityKey(t) + "\ncert-authority " + b + "\n")
	var skipped []string
	skip := func(err error) { skipped = append(skipped, err.Error()) }
	rcpts, err := ParseOwnRecipients([]string{mixed}, &plugin.ClientUI{}, skip)
	if all := strings.Join(skipped, "\n"); err != nil || len(rcpts) != 1 || len(skipped) != 3 ||
		!strings.Contains(all, "line 2, is passed over: a key of type ecdsa-sha2-nistp256") ||
		!strings.Contains(all, "line 3, is passed over: a key of type sk-ssh-ed25519@openssh.com") ||
		!strings.Contains(all, "line 4, is passed over: the key of a certificate authority") {
		t.Errorf("%d recipients, %v, skipped: %s", len(rcpts), err, all)
	}
	for name, c := range map[string]struct{ arg, want string }{
		"mixed, nobody to tell": {mixed, "line 2: a key of type ecdsa-sha2-nistp256, to which age cannot encrypt; use an ssh-ed25519"},
		"nothing else":          {file(ecPub + "\n"), "line 1, is passed over: a key of type ecdsa"},
		"named by itself":       {ecPub, "a key of type ecdsa"},
		"security key":          {securityKey(t), "a key of type sk-ssh-ed25519@openssh.com"},
		"several in one":        {a + "\n" + b, "several lines"},
		"UTF-16":                {file("\xff\xfes\x00s\x00h\x00"), "UTF-16"},
	} {
		tell := skip
		if name == "mixed, nobody to tell" {
			tell = nil
		}
		if _, err := ParseOwnRecipients([]string{c.arg}, nil, tell); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
