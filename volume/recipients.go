package volume

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxKeyFile bounds files of recipients and identities.
const maxKeyFile = 1 << 20

// ParseRecipients reads recipients, each given as an age recipient (X25519,
// age1...; post-quantum hybrid, age1pq1...), an ssh-ed25519 or ssh-rsa public key
// (RSA from 3072 bits), or a file that holds one of these a line (empty lines and
// # comments allowed).
// ErrIdentity if one is unusable, or if they do not go together: hybrid ones
// take no others beside them.
func ParseRecipients(args []string) ([]age.Recipient, error) {
	rcpts, err := ParseOwnRecipients(args, nil)
	if err == nil && len(rcpts) > 0 {
		if _, err = age.Encrypt(io.Discard, rcpts...); err != nil {
			err = fmt.Errorf("%w: %w", ErrIdentity, err)
		}
	}
	return rcpts, err
}

// ParseOwnRecipients is ParseRecipients where programs of the user may be run:
// recipients of age plugins (age1NAME1..., with the program age-plugin-NAME) are
// allowed, unless plugins is nil. Whether recipients go together is found out
// when they are used.
func ParseOwnRecipients(args []string, plugins *plugin.ClientUI) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, arg := range args {
		if isRecipient(arg) {
			r, err := parseRecipient(arg, plugins)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
			continue
		}
		rs, err := recipientsFile(arg, plugins)
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

func parseRecipient(s string, plugins *plugin.ClientUI) (age.Recipient, error) {
	if strings.HasPrefix(s, "age1") {
		r, err := ageRecipient(s, plugins)
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

// ageRecipient reads a recipient in age's own notation. Bech32 has no 1 in what
// comes after the kind's name, but one before it.
func ageRecipient(s string, plugins *plugin.ClientUI) (age.Recipient, error) {
	switch kind := s[:strings.LastIndexByte(s, '1')]; kind {
	case "age":
		return age.ParseX25519Recipient(s)
	case "age1pq":
		return age.ParseHybridRecipient(s)
	}
	if name, _, err := plugin.ParseRecipient(s); err == nil && plugins == nil {
		return nil, fmt.Errorf("it needs the program age-plugin-%s, which is not run here: name a recipient that needs none", name)
	}
	return plugin.NewRecipient(s, plugins)
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

func recipientsFile(path string, plugins *plugin.ClientUI) ([]age.Recipient, error) {
	b, err := trusted.ReadFile(path, maxKeyFile)
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
		r, err := parseRecipient(line, plugins)
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

// ParseIdentityFile reads an age identity file (as age-keygen and plugins write) or
// an OpenSSH ed25519 or RSA private key. passphrase is asked for an encrypted private
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
