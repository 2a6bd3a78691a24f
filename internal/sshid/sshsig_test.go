package sshid

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

const testNamespace = "sealbatch-test"

var message = []byte("what was said\n")

// run runs a command that must succeed and returns its standard output.
func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// keygen makes a key pair with ssh-keygen and returns the private key's path.
func keygen(t *testing.T, args ...string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "key")
	run(t, nil, "ssh-keygen", append([]string{"-q", "-C", "tester", "-f", p}, args...)...)
	return p
}

func newEd25519(t *testing.T) ssh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func authorizedLine(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func write(t *testing.T, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWithSSHKeygen signs and verifies in both directions with OpenSSH.
func TestWithSSHKeygen(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"ed25519":   {"-t", "ed25519", "-N", ""},
		"ecdsa-256": {"-t", "ecdsa", "-b", "256", "-N", ""},
		"ecdsa-521": {"-t", "ecdsa", "-b", "521", "-N", ""},
		"rsa-3072":  {"-t", "rsa", "-b", "3072", "-N", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := keygen(t, args...)
			signer, err := LoadSigner(context.Background(), path, nil)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := SignSSH(signer, testNamespace, message)
			if err != nil {
				t.Fatal(err)
			}
			allowed := write(t, []byte("me@here "+authorizedLine(signer.PublicKey())+"\n"))
			run(t, message, "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "me@here",
				"-n", testNamespace, "-s", write(t, ours))

			for _, hash := range []string{"sha512", "sha256"} {
				theirs := run(t, message, "ssh-keygen", "-Y", "sign", "-f", path, "-n", testNamespace, "-O", "hashalg="+hash)
				k, err := VerifySSH(testNamespace, message, theirs)
				if err != nil {
					t.Fatalf("%s: %v", hash, err)
				}
				if !sameKey(k, signer.PublicKey()) {
					t.Errorf("%s: verified under another key", hash)
				}
			}
			// Armour and raw blob are alike.
			p, _ := pem.Decode(ours)
			if _, err := VerifySSH(testNamespace, message, p.Bytes); err != nil {
				t.Errorf("raw blob: %v", err)
			}
		})
	}
}

// securityKey signs as a FIDO token does (OpenSSH PROTOCOL.u2f).
type securityKey struct {
	key   ed25519.PrivateKey
	app   string
	flags byte
}

func (s securityKey) PublicKey() ssh.PublicKey {
	k, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, s.key.Public().(ed25519.PublicKey), s.app}))
	if err != nil {
		panic(err)
	}
	return k
}

func (s securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, msg := sha256.Sum256([]byte(s.app)), sha256.Sum256(data)
	tail := []byte{s.flags, 0, 0, 0, 7}
	signed := append(append(bytes.Clone(app[:]), tail...), msg[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(s.key, signed), Rest: tail}, nil
}

func TestSecurityKey(t *testing.T) {
	t.Parallel()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	touched := securityKey{priv, "ssh:", 1}
	sig, err := SignSSH(touched, testNamespace, message)
	if err != nil {
		t.Fatal(err)
	}
	allowed := write(t, []byte("me "+authorizedLine(touched.PublicKey())+"\n"))
	run(t, message, "ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "me", "-n", testNamespace, "-s", write(t, sig))
	if _, err := VerifySSH(testNamespace, []byte("other"), sig); !errors.Is(err, ErrBadSignature) {
		t.Errorf("other message: %v", err)
	}
	untouched := securityKey{priv, "ssh:", 0}
	if _, err := SignSSH(untouched, testNamespace, message); !errors.Is(err, ErrBadSignature) {
		t.Errorf("a signature without a touch passed: %v", err)
	}
}

// rawSignature builds an SSHSIG blob by hand, as no honest tool would.
func rawSignature(t *testing.T, key ssh.PublicKey, namespace string, sign func(data []byte) *ssh.Signature) []byte {
	t.Helper()
	h := sha512.Sum512(message)
	data := append([]byte("SSHSIG"), ssh.Marshal(struct{ NS, Reserved, Alg, Hash string }{namespace, "", "sha512", string(h[:])})...)
	return sshsig.Signature{Version: 1, PublicKey: key, Namespace: namespace,
		HashAlgorithm: sshsig.HashSHA512, Signature: sign(data)}.Marshal()
}

func rsaSigner(t *testing.T, bits int) ssh.AlgorithmSigner {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s.(ssh.AlgorithmSigner)
}

func signWith(t *testing.T, s ssh.AlgorithmSigner, algorithm string) func([]byte) *ssh.Signature {
	return func(data []byte) *ssh.Signature {
		sig, err := s.SignWithAlgorithm(rand.Reader, data, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	signer := newEd25519(t)
	good, err := SignSSH(signer, testNamespace, message)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pem.Decode(good)
	weak, strong := rsaSigner(t, 2048), rsaSigner(t, 3072)
	cert := &ssh.Certificate{Key: strong.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"},
		ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(p.Bytes)
	flipped[len(flipped)-1] ^= 1
	for name, sig := range map[string][]byte{
		"empty":               nil,
		"no armour":           []byte("signature"),
		"another PEM type":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Bytes}),
		"PEM headers":         pem.EncodeToMemory(&pem.Block{Type: sshsig.PEMType, Bytes: p.Bytes, Headers: map[string]string{"a": "b"}}),
		"text before":         append([]byte("hello\n"), good...),
		"text after":          append(bytes.Clone(good), "hello\n"...),
		"cut armour":          good[:len(good)-10],
		"trailing bytes":      append(bytes.Clone(p.Bytes), 0),
		"flipped bit":         flipped,
		"too large":           append([]byte("SSHSIG"), make([]byte, maxSignature)...),
		"RSA 2048":            rawSignature(t, weak.PublicKey(), testNamespace, signWith(t, weak, ssh.KeyAlgoRSASHA512)),
		"RSA SHA-1":           rawSignature(t, strong.PublicKey(), testNamespace, signWith(t, strong, ssh.KeyAlgoRSA)),
		"RSA SHA-1 in a cert": rawSignature(t, cert, testNamespace, signWith(t, strong, ssh.KeyAlgoRSA)),
		"other namespace":     rawSignature(t, strong.PublicKey(), "file", signWith(t, strong, ssh.KeyAlgoRSASHA512)),
	} {
		if _, err := VerifySSH(testNamespace, message, sig); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: got %v, want ErrBadSignature", name, err)
		}
	}
	// The hand-made blobs above fail for their flaw, not for their making.
	ok := rawSignature(t, strong.PublicKey(), testNamespace, signWith(t, strong, ssh.KeyAlgoRSASHA256))
	if _, err := VerifySSH(testNamespace, message, ok); err != nil {
		t.Errorf("RSA 3072 with SHA-256: %v", err)
	}
	if _, err := VerifySSH("", message, rawSignature(t, strong.PublicKey(), "", signWith(t, strong, ssh.KeyAlgoRSASHA512))); err == nil {
		t.Error("an empty namespace passed")
	}
	if _, err := SignSSH(weak, testNamespace, message); !errors.Is(err, ErrWeakKey) {
		t.Errorf("signing with RSA 2048: %v", err)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	own, listed, stranger := newEd25519(t), newEd25519(t), newEd25519(t)
	text := `alice@example.org,al@example.org namespaces="sealbatch-*",valid-before="20260401Z" ` + authorizedLine(listed.PublicKey())
	allowed, err := ParseAllowedSigners(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Own: []ssh.PublicKey{own.PublicKey()}, Allowed: allowed, File: "/etc/signers"}
	for _, c := range []struct {
		name, namespace string
		signer          ssh.Signer
		at              time.Time
		want            string
		err             error
	}{
		{"own key", testNamespace, own, now, OwnPrincipal, nil},
		{"listed", testNamespace, listed, now, "alice@example.org,al@example.org", nil},
		{"listed, expired", testNamespace, listed, now.AddDate(1, 0, 0), "", ErrUntrusted},
		{"listed, another namespace", "file", listed, now, "", ErrUntrusted},
		{"stranger", testNamespace, stranger, now, "", ErrUntrusted},
	} {
		sig, err := SignSSH(c.signer, c.namespace, message)
		if err != nil {
			t.Fatal(err)
		}
		got, err := trust.Check(c.namespace, message, sig, c.at, c.at)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
		if err == nil {
			continue
		}
		if s := err.Error(); !strings.Contains(s, Fingerprint(c.signer.PublicKey())) || !strings.Contains(s, "/etc/signers") {
			t.Errorf("%s: error names neither key nor file: %v", c.name, err)
		}
		if _, err := trust.Check(c.namespace, []byte("forged"), sig, c.at, c.at); !errors.Is(err, ErrBadSignature) ||
			errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: forged message: %v", c.name, err)
		}
	}
}

// TestTrustOtherKeys: another key of one's own counts for what it signed while it
// did, and is asked for only where nobody else is known.
func TestTrustOtherKeys(t *testing.T) {
	t.Parallel()
	own, old, stranger := newEd25519(t), newEd25519(t), newEd25519(t)
	retired := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	others, err := ParseAllowedSigners(strings.NewReader(`alice namespaces="` + testNamespace + `",valid-before="20260301120000Z" ` +
		authorizedLine(old.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	answer := error(nil)
	trust := Trust{Own: []ssh.PublicKey{own.PublicKey()}, Others: func() ([]AllowedSigner, error) {
		asked++
		if answer != nil {
			return nil, answer
		}
		return others, nil
	}}
	for _, c := range []struct {
		name, namespace string
		signer          ssh.Signer
		made            time.Time
		want            string
	}{
		{"own", testNamespace, own, retired, OwnPrincipal},
		{"signed before it was retired", testNamespace, old, retired.Add(-time.Hour), OtherPrincipal},
		{"signed later", testNamespace, old, retired.Add(time.Hour), ""},
		{"another namespace", "file", old, retired.Add(-time.Hour), ""},
		{"stranger", testNamespace, stranger, retired, ""},
	} {
		sig, err := SignSSH(c.signer, c.namespace, message)
		if err != nil {
			t.Fatal(err)
		}
		asked = 0
		got, err := trust.Check(c.namespace, message, sig, retired.AddDate(1, 0, 0), c.made)
		if got != c.want || (c.want == "") != errors.Is(err, ErrUntrusted) || (asked > 0) == (c.want == OwnPrincipal) {
			t.Errorf("%s: %q, %v, asked %d times", c.name, got, err, asked)
		}
		if own, err := trust.IsOwn(c.signer.PublicKey(), c.namespace, retired, c.made); own != (c.want != "") || err != nil {
			t.Errorf("%s: own: %v, %v", c.name, own, err)
		}
	}
	sig, err := SignSSH(old, testNamespace, message)
	if err != nil {
		t.Fatal(err)
	}
	answer = errors.New("nobody answers")
	if _, err := trust.Check(testNamespace, message, sig, retired, retired); !errors.Is(err, ErrUntrusted) || !errors.Is(err, answer) {
		t.Errorf("others could not be asked: %v", err)
	}
	listed := Trust{Allowed: others, File: "x"}
	if own, err := listed.IsOwn(old.PublicKey(), testNamespace, retired.Add(-time.Hour), retired.Add(-time.Hour)); own || err != nil {
		t.Errorf("an allowed signer is oneself: %v, %v", own, err)
	}
}

// TestTrustListedOtherKey: of a key that one's own list has, the list decides, whatever
// the key service says of it, and whatever time the message gives.
func TestTrustListedOtherKey(t *testing.T) {
	t.Parallel()
	old := newEd25519(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sig, err := SignSSH(old, testNamespace, message)
	if err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]string{
		`valid-before="20260201Z"`: "",
		`valid-after="20260401Z"`:  "",
		`namespaces="git"`:         "",
		`namespaces="*"`:           "alice",
	} {
		allowed, err := ParseAllowedSigners(strings.NewReader("alice " + options + " " + authorizedLine(old.PublicKey())))
		if err != nil {
			t.Fatal(err)
		}
		trust := Trust{Allowed: allowed, Others: func() ([]AllowedSigner, error) {
			return []AllowedSigner{{Principals: []string{"alice"}, Key: old.PublicKey()}}, nil
		}}
		got, err := trust.Check(testNamespace, message, sig, now, now.AddDate(0, -2, 0))
		if got != want || (want == "") != errors.Is(err, ErrUntrusted) || want == "" && !strings.Contains(err.Error(), "is listed in") {
			t.Errorf("%s: %q, %v", options, got, err)
		}
		if own, err := trust.IsOwn(old.PublicKey(), testNamespace, now, now.AddDate(0, -2, 0)); own != (want != "") || err != nil {
			t.Errorf("%s: own: %v, %v", options, own, err)
		}
	}
}

// TestTrustCertificate uses certificates that ssh-keygen made.
func TestTrustCertificate(t *testing.T) {
	t.Parallel()
	ca, key := keygen(t, "-t", "ed25519", "-N", ""), keygen(t, "-t", "ed25519", "-N", "")
	sign := func(args ...string) []byte {
		run(t, nil, "ssh-keygen", append(append([]string{"-q", "-s", ca, "-I", "id"}, args...), key+".pub")...)
		pub, err := LoadPublicKey(key + "-cert.pub")
		if err != nil {
			t.Fatal(err)
		}
		signer, err := LoadSigner(context.Background(), key, nil)
		if err != nil {
			t.Fatal(err)
		}
		if signer, err = ssh.NewCertSigner(pub.(*ssh.Certificate), signer); err != nil {
			t.Fatal(err)
		}
		sig, err := SignSSH(signer, testNamespace, message)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	caKey, err := LoadPublicKey(ca + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ParseAllowedSigners(strings.NewReader("*@example.org cert-authority " + authorizedLine(caKey)))
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Allowed: allowed}
	now := time.Now()
	got, err := trust.Check(testNamespace, message, sign("-n", "mallory@elsewhere,alice@example.org"), now, now)
	if err != nil || got != "alice@example.org" {
		t.Errorf("certificate of a listed domain: %q, %v", got, err)
	}
	for name, args := range map[string][]string{
		"another domain": {"-n", "alice@elsewhere"},
		"no principal":   {},
		"host":           {"-h", "-n", "alice@example.org"},
		"expired":        {"-n", "alice@example.org", "-V", "20200101:20200201"},
	} {
		if _, err := trust.Check(testNamespace, message, sign(args...), now, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", name, err)
		}
	}
	// The authority's own signature is not what the line admits.
	sig := run(t, message, "ssh-keygen", "-Y", "sign", "-f", ca, "-n", testNamespace)
	if _, err := trust.Check(testNamespace, message, sig, now, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the authority itself: %v", err)
	}
}
