package sshid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/sshkey"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

const (
	// maxKeyFile bounds a key file, in bytes.
	maxKeyFile = 64 << 10
	// agentPatience bounds one exchange with the agent: it may wait for a
	// person to touch a security key or confirm.
	agentPatience      = 2 * time.Minute
	passphraseAttempts = 3
)

// ErrPassphrase says that an encrypted key could not be opened.
var ErrPassphrase = errors.New("private key is encrypted")

// LoadSigner returns the signer for path: a private key file, or a public one
// (.pub) whose private half the SSH agent at $SSH_AUTH_SOCK holds. For an
// encrypted private key, and for a security key's handle, the agent is asked
// first; then passphrase is, up to three times, if it is not nil. The bytes
// that passphrase returns are wiped after use.
func LoadSigner(ctx context.Context, path string, passphrase func(prompt string) ([]byte, error)) (ssh.Signer, error) {
	f, err := trusted.Open(path, trusted.Public)
	if err != nil {
		return nil, fmt.Errorf("SSH key: %w", err)
	}
	defer f.Close()
	b, err := fsx.ReadAll(f, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("SSH key %s: %w", path, err)
	}
	if pub, err := sshkey.Public(b); err == nil {
		return agentSignerFor(ctx, path, pub)
	}
	if err := checkPrivate(f); err != nil {
		return nil, err
	}
	s, err := sshkey.Signer(b, nil)
	if err == nil {
		return s, CheckKey(s.PublicKey())
	}
	// OpenSSH keeps the public half in the clear beside the private one.
	if pub, pubErr := LoadPublicKey(path + ".pub"); pubErr == nil {
		if s, agentErr := agentSignerFor(ctx, path, pub); agentErr == nil {
			return s, nil
		}
	}
	var missing *ssh.PassphraseMissingError
	if !errors.As(err, &missing) {
		return nil, fmt.Errorf("private key %s: %w", path, err)
	}
	return openEncrypted(path, b, passphrase)
}

func openEncrypted(path string, b []byte, passphrase func(string) ([]byte, error)) (ssh.Signer, error) {
	if passphrase == nil {
		return nil, fmt.Errorf("%w: %s; load it into the agent with ssh-add %s", ErrPassphrase, path, path)
	}
	for range passphraseAttempts {
		p, err := passphrase(fmt.Sprintf("Passphrase for %s: ", path))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPassphrase, path, err)
		}
		s, err := sshkey.Signer(b, p)
		clear(p)
		if err == nil {
			return s, CheckKey(s.PublicKey())
		}
	}
	return nil, fmt.Errorf("%w: %s: wrong passphrase", ErrPassphrase, path)
}

// LoadPublicKey reads a public key file: one line, "type base64 comment".
func LoadPublicKey(path string) (ssh.PublicKey, error) {
	b, err := trusted.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("SSH key: %w", err)
	}
	k, err := sshkey.Public(b)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", path, err)
	}
	return k, nil
}

// checkPrivate refuses a private key's file that others can read, as ssh does.
func checkPrivate(f *os.File) error {
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() {
		err = trusted.CheckFile(f, trusted.Secret)
	}
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	return nil
}

// agentSigner asks the agent anew for each signature, so that it holds no
// connection open.
type agentSigner struct {
	key    ssh.PublicKey
	socket string
}

// ErrNoAgentKey says that there is no SSH agent or that it lacks a key.
var ErrNoAgentKey = errors.New("SSH agent does not hold the key")

func agentSignerFor(ctx context.Context, path string, key ssh.PublicKey) (ssh.Signer, error) {
	if err := CheckKey(key); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, fmt.Errorf("%w: %s: no agent runs (SSH_AUTH_SOCK is not set); name the private key file instead", ErrNoAgentKey, path)
	}
	s := agentSigner{key, socket}
	var keys []*agent.Key
	err := s.ask(ctx, func(a agent.ExtendedAgent) (err error) {
		keys, err = a.List()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoAgentKey, path, err)
	}
	for _, k := range keys {
		if sameKey(k, key) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %s (%s); load it with ssh-add", ErrNoAgentKey, path, Fingerprint(key))
}

// maxAgentKeys bounds the keys of an agent that are tried.
const maxAgentKeys = 8

// AgentSigners returns signers for the keys that the SSH agent at $SSH_AUTH_SOCK holds and that
// CheckKey takes, Ed25519 first and RSA last; at most 8. Without an agent there are none.
func AgentSigners(ctx context.Context) ([]ssh.Signer, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, nil
	}
	var held []*agent.Key
	err := agentSigner{socket: socket}.ask(ctx, func(a agent.ExtendedAgent) (err error) {
		held, err = a.List()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keys of the SSH agent: %w", err)
	}
	var keys []ssh.PublicKey
	for _, k := range held {
		key, err := ssh.ParsePublicKey(k.Blob)
		_, certified := key.(*ssh.Certificate) // its key is there by itself, too
		if err == nil && CheckKey(key) == nil && !certified {
			keys = append(keys, key)
		}
	}
	rank := map[string]int{ssh.KeyAlgoED25519: -1, ssh.KeyAlgoRSA: 1}
	slices.SortStableFunc(keys, func(a, b ssh.PublicKey) int { return rank[a.Type()] - rank[b.Type()] })
	var out []ssh.Signer
	for _, key := range keys[:min(len(keys), maxAgentKeys)] {
		out = append(out, agentSigner{key, socket})
	}
	return out, nil
}

// ask runs f on a fresh connection to the agent.
func (s agentSigner) ask(ctx context.Context, f func(agent.ExtendedAgent) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", s.socket)
	if err != nil {
		return fmt.Errorf("reach the SSH agent: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	return f(agent.NewClient(c))
}

// PublicKey implements ssh.Signer.
func (s agentSigner) PublicKey() ssh.PublicKey { return s.key }

// Sign implements ssh.Signer.
func (s agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner; for RSA keys anything but
// rsa-sha2-256 means rsa-sha2-512.
func (s agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	var flags agent.SignatureFlags
	if plainKey(s.key).Type() == ssh.KeyAlgoRSA {
		flags = agent.SignatureFlagRsaSha512
		if algorithm == ssh.KeyAlgoRSASHA256 {
			flags = agent.SignatureFlagRsaSha256
		}
	}
	err = s.ask(context.Background(), func(a agent.ExtendedAgent) error {
		sig, err = a.SignWithFlags(s.key, data, flags)
		return err
	})
	return sig, err
}
