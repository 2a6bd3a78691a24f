package volume

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// maxKeyFile bounds files of recipients and identities.
const maxKeyFile = 1 << 20

// ParseRecipients reads recipients, each given as an age X25519 recipient
// (age1...), an ssh-ed25519 or ssh-rsa public key (RSA from 3072 bits), or a file
// that holds one of these a line (empty lines and # comments allowed).
// ErrIdentity if one is unusable.
func ParseRecipients(args []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, arg := range args {
		if isRecipient(arg) {
			r, err := parseRecipient(arg)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
			continue
		}
		rs, err := recipientsFile(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, rs...)
	}
	return out, nil
}

func isRecipient(s string) bool {
	return strings.HasPrefix(s, "age1") || strings.HasPrefix(s, "ssh-") ||
		strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-")
}

func parseRecipient(s string) (age.Recipient, error) {
	if strings.HasPrefix(s, "age1") {
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, fmt.Errorf("%w: recipient %q: %w", ErrIdentity, s, err)
		}
		return r, nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("%w: recipient %q: %w", ErrIdentity, s, err)
	}
	r, err := sshRecipient(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: recipient %q: %w", ErrIdentity, s, err)
	}
	return r, nil
}

// minRSA is the least length of RSA keys in bits, as for signatures.
const minRSA = 3072

func sshRecipient(pub ssh.PublicKey) (age.Recipient, error) {
	switch pub.Type() {
	case ssh.KeyAlgoED25519:
		return agessh.NewEd25519Recipient(pub)
	case ssh.KeyAlgoRSA:
		if c, ok := pub.(ssh.CryptoPublicKey); ok {
			if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() >= minRSA {
				return agessh.NewRSARecipient(pub)
			}
		}
		return nil, fmt.Errorf("an RSA key of fewer than %d bits", minRSA)
	}
	return nil, fmt.Errorf("a key of type %s; use ssh-ed25519, ssh-rsa or an age key (age-keygen)", pub.Type())
}

func recipientsFile(path string) ([]age.Recipient, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("recipient %q is neither a key nor a readable file: %w", path, err)
	}
	var out []age.Recipient
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !isRecipient(line) {
			// Not quoted: the file may be a private key, given by mistake.
			return nil, fmt.Errorf("%w: %s, line %d, is no recipient", ErrIdentity, path, i+1)
		}
		r, err := parseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, i+1, err)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s holds no recipient", ErrIdentity, path)
	}
	return out, nil
}

// ParseIdentityFile reads an age identity file (as age-keygen writes) or an
// OpenSSH ed25519 or RSA private key. passphrase is asked for an encrypted private
// key, and only when the key is needed; nil if there is nobody to ask.
// ErrIdentity if the file holds nothing usable; errors do not quote it.
func ParseIdentityFile(path string, passphrase func() ([]byte, error)) ([]age.Identity, error) {
	b, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer clear(b)
	switch {
	case bytes.HasPrefix(b, []byte("-----BEGIN AGE ENCRYPTED FILE")), bytes.HasPrefix(b, []byte("age-encryption.org/")):
		return nil, fmt.Errorf("%w: %s is itself encrypted; decrypt it with age first", ErrIdentity, path)
	case bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")):
		id, err := sshIdentity(bytes.Clone(b), passphrase)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrIdentity, path, err)
		}
		return []age.Identity{id}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %s holds neither age identities nor an OpenSSH private key", ErrIdentity, path)
	}
	return ids, nil
}

func sshIdentity(pem []byte, passphrase func() ([]byte, error)) (age.Identity, error) {
	raw, err := ssh.ParseRawPrivateKey(pem)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		if passphrase == nil || missing.PublicKey == nil {
			return nil, errors.New("it has a passphrase, which cannot be asked for here")
		}
		if t := missing.PublicKey.Type(); t != ssh.KeyAlgoED25519 && t != ssh.KeyAlgoRSA {
			return nil, fmt.Errorf("a key of type %s; only ssh-ed25519 and ssh-rsa can open volumes", t)
		}
		id, err := agessh.NewEncryptedSSHIdentity(missing.PublicKey, pem, passphrase)
		if err != nil {
			return nil, err
		}
		return lockedIdentity{id}, nil
	}
	if err != nil {
		return nil, errors.New("it is not a readable private key")
	}
	defer clear(pem)
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		return agessh.NewEd25519Identity(*key)
	case *rsa.PrivateKey:
		return agessh.NewRSAIdentity(key)
	}
	return nil, fmt.Errorf("a key of type %T; only ssh-ed25519 and ssh-rsa can open volumes", raw)
}

// lockedIdentity tells a private key that cannot be unlocked (ErrIdentity) from
// a damaged keys.age.
type lockedIdentity struct{ age.Identity }

// Unwrap implements age.Identity.
func (l lockedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := l.Identity.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		err = fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return key, err
}

// readKeyFile reads a small file.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(b) > maxKeyFile {
		return nil, fmt.Errorf("%w: %s is too large", ErrIdentity, path)
	}
	return b, err
}
