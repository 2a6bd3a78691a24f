package sshid

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/trusted"
)

// succeeds reports whether a command ends with status 0.
func succeeds(stdin []byte, name string, args ...string) bool {
	c := exec.Command(name, args...)
	c.Stdin = bytes.NewReader(stdin)
	return c.Run() == nil
}

// startAgent runs OpenSSH's agent for the test, holding the given keys.
func startAgent(t *testing.T, keys ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // t.TempDir() may exceed a socket path's length
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	c := exec.Command("ssh-agent", "-D", "-a", socket)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		c.Wait()
	})
	// The agent prints its socket's name once it listens.
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	for _, k := range keys {
		run(t, nil, "ssh-add", "-q", k)
	}
}

func TestAgentSigner(t *testing.T) {
	ctx := context.Background()
	key, rsaKey := keygen(t, "-t", "ed25519", "-N", ""), keygen(t, "-t", "rsa", "-b", "3072", "-N", "")
	absent := keygen(t, "-t", "ed25519", "-N", "")
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := LoadSigner(ctx, key+".pub", nil); !errors.Is(err, ErrNoAgentKey) {
		t.Errorf("without an agent: %v", err)
	}
	startAgent(t, key, rsaKey)
	for _, k := range []string{key, rsaKey} {
		s, err := LoadSigner(ctx, k+".pub", nil)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := SignSSH(s, testNamespace, message)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := VerifySSH(testNamespace, message, sig); err != nil || !sameKey(got, s.PublicKey()) {
			t.Errorf("%s: %v", k, err)
		}
	}
	if _, err := LoadSigner(ctx, absent+".pub", nil); !errors.Is(err, ErrNoAgentKey) {
		t.Errorf("a key that the agent lacks: %v", err)
	}
}

func TestEncryptedKey(t *testing.T) {
	ctx := context.Background()
	t.Setenv("SSH_AUTH_SOCK", "")
	key := keygen(t, "-t", "ed25519", "-a", "1", "-N", "correct horse")
	asked := 0
	var given []byte
	s, err := LoadSigner(ctx, key, func(string) ([]byte, error) {
		asked++
		given = []byte("wrong")
		if asked == 2 {
			given = []byte("correct horse")
		}
		return given, nil
	})
	if err != nil || asked != 2 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	if bytes.Contains(given, []byte("horse")) {
		t.Error("the passphrase was not wiped")
	}
	if _, err := SignSSH(s, testNamespace, message); err != nil {
		t.Error(err)
	}
	if _, err := LoadSigner(ctx, key, nil); !errors.Is(err, ErrPassphrase) {
		t.Errorf("nobody to ask: %v", err)
	}
	asked = 10
	if _, err := LoadSigner(ctx, key,
		func(string) ([]byte, error) { asked++; return []byte("wrong"), nil }); !errors.Is(err, ErrPassphrase) || asked != 13 {
		t.Errorf("wrong passphrases: asked to %d, %v", asked, err)
	}
	// What the agent holds is not asked for again.
	run(t, nil, "ssh-keygen", "-q", "-p", "-a", "1", "-P", "correct horse", "-N", "", "-f", key)
	startAgent(t, key)
	run(t, nil, "ssh-keygen", "-q", "-p", "-a", "1", "-N", "correct horse", "-f", key)
	if _, err := LoadSigner(ctx, key, nil); err != nil {
		t.Errorf("encrypted key held by the agent: %v", err)
	}
}

func TestLoadSignerRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	open := keygen(t, "-t", "ed25519", "-N", "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSigner(ctx, open, nil); !errors.Is(err, trusted.ErrUnsafe) {
		t.Errorf("a key that all can read: %v", err)
	}
	if _, err := LoadSigner(ctx, keygen(t, "-t", "rsa", "-b", "2048", "-N", ""), nil); !errors.Is(err, ErrWeakKey) {
		t.Errorf("RSA 2048: %v", err)
	}
	if _, err := LoadSigner(ctx, filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := LoadSigner(ctx, write(t, []byte("not a key\n")), nil); err == nil {
		t.Error("a text file passed for a key")
	}
	if _, err := LoadSigner(ctx, write(t, make([]byte, maxKeyFile+1)), nil); err == nil {
		t.Error("an endless file passed for a key")
	}
}

// Encrypted keys in PEM are the account's, too.
func TestLoadSignerPEM(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	for _, shape := range []string{"PEM", "PKCS8"} {
		key := keygen(t, "-t", "ecdsa", "-m", shape, "-N", "secret")
		asked := 0
		s, err := LoadSigner(t.Context(), key, func(string) ([]byte, error) {
			asked++
			return []byte([]string{"wrong", "secret"}[min(asked, 2)-1]), nil
		})
		if err != nil || asked != 2 {
			t.Fatalf("%s: %v, asked %d times", shape, err, asked)
		}
		if pub, err := LoadPublicKey(key + ".pub"); err != nil || !bytes.Equal(pub.Marshal(), s.PublicKey().Marshal()) {
			t.Errorf("%s: %v", shape, err)
		}
	}
}
