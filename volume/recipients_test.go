package volume

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
)

// sshKey writes a new ed25519 private key and returns its path and public key.
func sshKey(t *testing.T, passphrase string) (path, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(priv, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(priv, "", []byte(passphrase))
	}
	must(t, err)
	path = filepath.Join(t.TempDir(), "id")
	must(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	sshPub, err := ssh.NewPublicKey(pub)
	must(t, err)
	return path, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))) + " someone@somewhere"
}

func TestRecipientsAndIdentities(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	xFile := filepath.Join(t.TempDir(), "key.txt")
	must(t, os.WriteFile(xFile, []byte("# created: today\n"+x.String()+"\n"), 0o600))
	plainFile, plainPub := sshKey(t, "")
	lockedFile, lockedPub := sshKey(t, "correct horse")
	list := filepath.Join(t.TempDir(), "recipients")
	must(t, os.WriteFile(list, []byte("# the group\n\n"+plainPub+"\n  "+lockedPub+"\r\n"), 0o600))
	rcpts, err := ParseRecipients([]string{x.Recipient().String(), list})
	must(t, err)
	if len(rcpts) != 3 {
		t.Fatalf("%d recipients", len(rcpts))
	}
	id := ID{1, 2, 3}
	key, err := NewKey()
	must(t, err)
	var wrapped bytes.Buffer
	must(t, WrapKey(&wrapped, id, key, rcpts...))
	asked := 0
	for _, file := range []string{xFile, plainFile, lockedFile} {
		ids, err := ParseIdentityFile(file, func() ([]byte, error) { asked++; return []byte("correct horse"), nil }, nil)
		must(t, err)
		gotID, gotKey, err := ReadKey(bytes.NewReader(wrapped.Bytes()), ids...)
		if err != nil || gotID != id || !gotKey.Equal(key) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times for a passphrase", asked)
	}
	if _, _, err := ReadKey(bytes.NewReader(wrapped.Bytes()), newIdentity(t)); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a stranger: %v", err)
	}
	if _, _, err := ReadKey(bytes.NewReader(wrapped.Bytes())); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := ParseIdentityFile(lockedFile, nil, nil); !errors.Is(err, ErrIdentity) {
		t.Errorf("nobody to ask: %v", err)
	}
}

// TestStockAge: the age command opens keys.age, and gocryptfs takes what is in it.
func TestStockAge(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	xFile := filepath.Join(t.TempDir(), "key.txt")
	must(t, os.WriteFile(xFile, []byte(x.String()+"\n"), 0o600))
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o600))
	s, b := sealBytes(t, dir, x.Recipient())
	out, err := exec.Command("age", "--decrypt", "-i", xFile, filepath.Join(unpack(t, b), keysName)).CombinedOutput()
	if err != nil {
		t.Fatalf("age: %v\n%s", err, out)
	}
	if want := `{"format":"sealbatch-key-1","volume":"` + s.ID.String() + `","key":"` + s.Key.Hex() + "\"}\n"; string(out) != want {
		t.Error("age printed something else than the documented JSON")
	}
}

func TestUnusableRecipients(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ecPub, err := ssh.NewPublicKey(&ec.PublicKey)
	must(t, err)
	private, _ := sshKey(t, "")
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, []byte("# nobody\n"), 0o600))
	for name, arg := range map[string]string{
		"broken age":    "age1qqqq",
		"broken ssh":    "ssh-ed25519 AAAA",
		"ecdsa":         string(ssh.MarshalAuthorizedKey(ecPub)),
		"private key":   private,
		"nobody":        empty,
		"age secret in": newIdentity(t).String(),
	} {
		_, err := ParseRecipients([]string{arg})
		if !errors.Is(err, ErrIdentity) && !(name == "age secret in" && errors.Is(err, os.ErrNotExist)) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "private key" && strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("quotes a private key: %v", err)
		}
	}
}

func TestUnusableIdentities(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(ec, "")
	must(t, err)
	for name, content := range map[string]string{
		"ecdsa":     string(pem.EncodeToMemory(block)),
		"broken":    "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n",
		"text":      "hello, SECRET",
		"encrypted": "-----BEGIN AGE ENCRYPTED FILE-----\n",
		"empty":     "",
	} {
		path := filepath.Join(t.TempDir(), "id")
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := ParseIdentityFile(path, nil, nil); !errors.Is(err, ErrIdentity) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnwrapKeyOfOtherVolume(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	dir := t.TempDir()
	_, b := sealBytes(t, dir, x.Recipient())
	_, other := sealBytes(t, dir, x.Recipient())
	if len(b) != len(other) {
		t.Fatal("lengths differ")
	}
	head := tarBlock + padded(int64(len(keysOf(t, b))))
	mixed := append(bytes.Clone(other[:head]), b[head:]...)
	if _, err := UnwrapKey(bytes.NewReader(mixed), int64(len(mixed)), x); !errors.Is(err, ErrKey) {
		t.Errorf("got %v", err)
	}
}

// TestFlippedKeysAge: an altered keys.age gives the same key or an error.
func TestFlippedKeysAge(t *testing.T) {
	t.Parallel()
	x := newIdentity(t)
	s, b := sealBytes(t, t.TempDir(), x.Recipient())
	var refused int
	for i := 0; i < 3*tarBlock; i += 3 {
		b[i] ^= 1
		key, err := UnwrapKey(bytes.NewReader(b), s.Size, x)
		if err == nil && !key.Equal(s.Key) {
			t.Errorf("byte %d altered: another key", i)
		}
		if err != nil {
			refused++
		}
		b[i] ^= 1
	}
	if refused < 60 {
		t.Errorf("only %d alterations noticed", refused)
	}
}

// TestHybridRecipients: post-quantum recipients open what is sealed to them and
// go with no others, which is found out before anything is sealed.
func TestHybridRecipients(t *testing.T) {
	t.Parallel()
	a, err := age.GenerateHybridIdentity()
	must(t, err)
	b, err := age.GenerateHybridIdentity()
	must(t, err)
	classic := newIdentity(t).Recipient().String()
	for _, mixed := range [][]string{{a.Recipient().String(), classic}, {classic, a.Recipient().String()}} {
		if _, err := ParseRecipients(mixed); !errors.Is(err, ErrIdentity) ||
			!strings.Contains(err.Error(), "can't mix post-quantum and classic recipients") {
			t.Errorf("mixed: %v", err)
		}
		own, err := ParseOwnRecipients(mixed, nil, nil)
		must(t, err)
		if _, err := Seal(t.Context(), &failWriter{errors.New("something was written")}, DirSource(t.TempDir()),
			SealOptions{Recipients: own}); !errors.Is(err, ErrRecipients) {
			t.Errorf("mixed: %v", err)
		}
	}
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte("# public key: "+a.Recipient().String()+"\n"+a.String()+"\n"), 0o600))
	ids, err := ParseIdentityFile(file, nil, nil)
	must(t, err)
	one, err := ParseRecipients([]string{a.Recipient().String()})
	must(t, err)
	both, err := ParseRecipients([]string{b.Recipient().String(), a.Recipient().String()})
	must(t, err)
	path := filepath.Join(t.TempDir(), "v")
	s, err := SealFile(t.Context(), path, smallTree(), SealOptions{Recipients: one})
	must(t, err)
	_, digest, err := Rewrap(t.Context(), path, ids, both)
	must(t, err)
	if digest != s.Digest {
		t.Error("another digest")
	}
	for _, id := range []age.Identity{ids[0], b} {
		f, err := os.Open(path)
		must(t, err)
		key, err := UnwrapKey(f, s.Size, id)
		if must(t, f.Close()); err != nil || !key.Equal(s.Key) {
			t.Errorf("it does not open: %v", err)
		}
	}
}

// TestPluginsRefused: where programs of the user are not to be run, as on a
// node, recipients and identities of plugins are refused.
func TestPluginsRefused(t *testing.T) {
	t.Parallel()
	rcpt := plugin.EncodeRecipient("example", []byte("x"))
	if _, err := ParseRecipients([]string{rcpt}); !errors.Is(err, ErrIdentity) ||
		!strings.Contains(err.Error(), "it needs the program age-plugin-example") {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	for text, want := range map[string]string{
		plugin.EncodeIdentity("example", []byte("x")): "needs the program age-plugin-example",
		"AGE-PLUGIN-EXAMPLE-1NONSENSE":                "damaged identity",
		"# nothing":                                   "neither age identities nor",
	} {
		file := filepath.Join(dir, "id")
		must(t, os.WriteFile(file, []byte(text+"\n"), 0o600))
		if _, err := ParseIdentityFile(file, nil, nil); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if rs, err := ParseOwnRecipients([]string{rcpt}, &plugin.ClientUI{}, nil); err != nil || len(rs) != 1 {
		t.Errorf("%v", err)
	}
}
