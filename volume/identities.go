package volume

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/sshkey"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// ParseIdentityFile reads an age identity file (as age-keygen and plugins write) or
// an ed25519 or RSA private key as OpenSSH reads them (package sshkey). passphrase is asked for an encrypted private
// key, and only when the key is needed; nil if there is nobody to ask. Likewise,
// plugins is how the programs of AGE-PLUGIN-... identities talk to the user; nil
// if they may not be run. The file and the directories above it must be the user's or
// root's and nobody else's to write, and the file nobody else's to read: fault.Config,
// with a hint that mends it. ErrIdentity if the file holds nothing usable; errors
// do not quote it.
func ParseIdentityFile(path string, passphrase func() ([]byte, error), plugins *plugin.ClientUI) ([]age.Identity, error) {
	b, err := trusted.ReadSecret(path, maxKeyFile)
	if errors.Is(err, fsx.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer clear(b)
	if b, err = sshkey.Text(b); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrIdentity, path, err)
	}
	switch {
	case bytes.HasPrefix(b, []byte("-----BEGIN AGE ENCRYPTED FILE")), bytes.HasPrefix(b, []byte("age-encryption.org/")):
		return nil, fmt.Errorf("%w: %s is itself encrypted; decrypt it with age first", ErrIdentity, path)
	case bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")):
		id, err := sshIdentity(path, bytes.Clone(b), passphrase)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrIdentity, path, err)
		}
		return []age.Identity{id}, nil
	}
	ids, err := ageIdentities(b, plugins)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %w", ErrIdentity, path, err)
	}
	return ids, nil
}

// ageIdentities reads an identity file. Its errors continue "FILE ...".
func ageIdentities(b []byte, plugins *plugin.ClientUI) ([]age.Identity, error) {
	var out []age.Identity
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if bytes.HasPrefix(line, []byte("AGE-PLUGIN-")) {
			id, err := pluginIdentity(string(line), plugins)
			if err != nil {
				return nil, err
			}
			out = append(out, id)
			continue
		}
		ids, err := age.ParseIdentities(bytes.NewReader(line))
		if err != nil {
			return nil, errNoIdentities
		}
		out = append(out, ids...)
	}
	if len(out) == 0 {
		return nil, errNoIdentities
	}
	return out, nil
}

var errNoIdentities = errors.New("holds neither age identities nor an OpenSSH private key")

func pluginIdentity(s string, plugins *plugin.ClientUI) (age.Identity, error) {
	name, _, err := plugin.ParseIdentity(s)
	if err != nil {
		return nil, errors.New("holds a damaged identity of a plugin")
	}
	if plugins == nil {
		return nil, fmt.Errorf("needs the program age-plugin-%s, which is not run here", name)
	}
	id, err := plugin.NewIdentity(s, plugins)
	if err != nil {
		return nil, errors.New("holds a damaged identity of a plugin")
	}
	return lockedIdentity{id}, nil
}

func sshIdentity(path string, pem []byte, passphrase func() ([]byte, error)) (age.Identity, error) {
	raw, err := sshkey.Private(pem, nil)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing) && passphrase == nil:
		return nil, errors.New("it has a passphrase, which cannot be asked for here")
	case errors.As(err, &missing):
		return encryptedIdentity(path, pem, missing.PublicKey, passphrase)
	case errors.Is(err, sshkey.ErrHandle):
		return nil, unusableKey("the key of a security key")
	case err != nil:
		return nil, errors.New("it is not a readable private key")
	}
	defer clear(pem)
	return keyIdentity(raw)
}

// keyIdentity makes an identity of a private key.
func keyIdentity(raw any) (age.Identity, error) {
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		return agessh.NewEd25519Identity(*key)
	case *rsa.PrivateKey:
		return agessh.NewRSAIdentity(key)
	case *ecdsa.PrivateKey:
		return nil, unusableKey("an ECDSA key")
	}
	return nil, unusableKey("a key of another kind")
}

func unusableKey(what string) error {
	return fmt.Errorf("%s; only ssh-ed25519, ssh-rsa and age keys can open volumes", what)
}

// encryptedIdentity is a key whose passphrase is asked for when a volume is for it. The old formats keep the
// public half elsewhere, in FILE.pub; without that, it is asked for whenever a volume is for an SSH key.
func encryptedIdentity(path string, pem []byte, public ssh.PublicKey, passphrase func() ([]byte, error)) (age.Identity, error) {
	if public == nil {
		if b, err := fsx.ReadFile(path+".pub", maxKeyFile); err == nil {
			public, _ = sshkey.Public(b)
		}
	}
	if public != nil {
		if t := public.Type(); t != ssh.KeyAlgoED25519 && t != ssh.KeyAlgoRSA {
			return nil, unusableKey("a key of type " + t)
		}
	}
	return lockedIdentity{&encryptedKey{pem: pem, public: public, passphrase: passphrase}}, nil
}

// encryptedKey is an age identity that is opened when it is needed.
type encryptedKey struct {
	pem        []byte
	public     ssh.PublicKey // nil if it is not known
	passphrase func() ([]byte, error)
	opened     age.Identity
}

// Unwrap implements age.Identity.
func (e *encryptedKey) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if e.opened == nil && !slices.ContainsFunc(stanzas, e.mine) {
		return nil, age.ErrIncorrectIdentity
	}
	if e.opened == nil {
		phrase, err := e.passphrase()
		if err != nil {
			return nil, fmt.Errorf("failed to obtain passphrase: %w", err)
		}
		raw, err := sshkey.Private(e.pem, phrase)
		clear(phrase)
		if err != nil {
			return nil, err
		}
		if e.opened, err = keyIdentity(raw); err != nil {
			return nil, err
		}
		clear(e.pem)
	}
	return e.opened.Unwrap(stanzas)
}

// mine reports whether a stanza may be for the key: agessh puts the key's type first, and the beginning of its
// digest (age-encryption.org/v1, ssh-rsa and ssh-ed25519).
func (e *encryptedKey) mine(s *age.Stanza) bool {
	if e.public == nil {
		return s.Type == ssh.KeyAlgoED25519 || s.Type == ssh.KeyAlgoRSA
	}
	sum := sha256.Sum256(e.public.Marshal())
	return s.Type == e.public.Type() && len(s.Args) > 0 && s.Args[0] == base64.RawStdEncoding.EncodeToString(sum[:4])
}

// lockedIdentity tells a private key that cannot be unlocked, or a plugin that
// fails (ErrIdentity), from a damaged keys.age.
type lockedIdentity struct{ age.Identity }

// Unwrap implements age.Identity.
func (l lockedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := l.Identity.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		err = fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return key, err
}
