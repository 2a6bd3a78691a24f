package sshkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/youmark/pkcs8"
	"golang.org/x/crypto/ssh"
)

// makeKey has ssh-keygen make a key, and returns its two halves.
func makeKey(t *testing.T, args ...string) (private, public []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	args = append([]string{"-q", "-C", "alice@laptop", "-f", path}, args...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	public, err = os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

// Every shape in which ssh-keygen writes private keys is read, with and without a passphrase, CRLF and byte order mark.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{
		"-t ed25519 -a 1", "-t ecdsa -a 1", "-t rsa -b 1024 -m PEM", "-t ecdsa -m PEM", "-t rsa -b 1024 -m PKCS8", "-t ecdsa -m PKCS8",
	} {
		for _, phrase := range []string{"", "correct horse"} {
			private, public := makeKey(t, append(strings.Fields(shape), "-N", phrase)...)
			want, err := Public(public)
			if err != nil {
				t.Fatal(err)
			}
			for what, b := range map[string][]byte{
				"": private, "with CRLF": bytes.ReplaceAll(private, []byte("\n"), []byte("\r\n")), "with a mark": append([]byte("\ufeff"), private...),
			} {
				var given []byte
				if phrase != "" {
					given = []byte(phrase)
					_, err := Signer(b, nil)
					var missing *ssh.PassphraseMissingError
					if !errors.As(err, &missing) {
						t.Errorf("%s %s, no passphrase: %v", shape, what, err)
					}
					if _, err := Signer(b, []byte("wrong")); !errors.Is(err, ErrPassphrase) {
						t.Errorf("%s %s, a wrong passphrase: %v", shape, what, err)
					}
				}
				s, err := Signer(b, given)
				if err != nil || !bytes.Equal(s.PublicKey().Marshal(), want.Marshal()) {
					t.Errorf("%s %s, %q: %v", shape, what, phrase, err)
				}
			}
		}
	}
}

// ssh-keygen writes no PKCS#8 key of type Ed25519; openssl does.
func TestPrivateEd25519InPKCS8(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, phrase := range [][]byte{nil, []byte("correct horse")} {
		der, err := pkcs8.MarshalPrivateKey(key, phrase, nil)
		if err != nil {
			t.Fatal(err)
		}
		kind := encryptedPKCS8
		if phrase == nil {
			kind = "PRIVATE KEY"
		}
		b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if s, err := Signer(b, phrase); err != nil || s.PublicKey().Type() != ssh.KeyAlgoED25519 {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	_, public := makeKey(t, "-t", "ed25519", "-N", "")
	line := strings.TrimSpace(string(public))
	for _, text := range []string{
		line, "\ufeff" + line + "\r\n", "# a comment\r\n\r\n" + line + "\r\n",
		`from="192.0.2.0/24",command="echo \"ssh-rsa AAAA\"",no-pty ` + line, "restrict " + line + " more words",
	} {
		key, err := Public([]byte(text))
		if err != nil || !strings.HasPrefix(line, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Public([]byte("\xff\xfes\x00s\x00h\x00")); !errors.Is(err, ErrUTF16) {
		t.Errorf("UTF-16: %v", err)
	}
}

func FuzzPrivate(f *testing.F) {
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nMAA=\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := Private(b, nil); err == nil && key == nil {
			t.Error("no key, and no error")
		}
	})
}
