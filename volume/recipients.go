package volume

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/sshkey"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxKeyFile bounds files of recipients and identities.
const maxKeyFile = 1 << 20

// ParseRecipients reads recipients, each given as an age recipient (X25519,
// age1...; post-quantum hybrid, age1pq1...), an ssh-ed25519 or ssh-rsa public key
// (RSA from 2048 bits), with options of authorized_keys before it or not, or a file
// that holds one of these a line (empty lines and # comments allowed).
// ErrIdentity if one is unusable, or if they do not go together: hybrid ones
// take no others beside them.
func ParseRecipients(args []string) ([]age.Recipient, error) {
	rcpts, err := ParseOwnRecipients(args, nil, nil)
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
// when they are used. skipped is told of the lines of a file that hold SSH keys to
// which nothing can be encrypted, such as ECDSA keys and security keys: they are
// passed over, as age does; nil refuses them.
func ParseOwnRecipients(args []string, plugins *plugin.ClientUI, skipped func(error)) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, arg := range args {
		if isRecipient(arg) {
			_, r, err := parseRecipient(arg, plugins)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
			continue
		}
		_, rs, err := recipientsFile(arg, plugins, skipped)
		if err != nil {
			return nil, err
		}
		out = append(out, rs...)
	}
	return out, nil
}

// ReadRecipients returns the recipients in a file as text, each of which ParseOwnRecipients takes. plugins and
// skipped are as there.
func ReadRecipients(path string, plugins *plugin.ClientUI, skipped func(error)) ([]string, error) {
	text, _, err := recipientsFile(path, plugins, skipped)
	return text, err
}

func isRecipient(s string) bool {
	if strings.HasPrefix(s, "age1") || strings.HasPrefix(s, "ssh-") ||
		strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-") {
		return true
	}
	_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s)) // with options before it
	return err == nil
}

// parseRecipient reads a recipient, and returns it as text, too, without options.
func parseRecipient(s string, plugins *plugin.ClientUI) (string, age.Recipient, error) {
	s = strings.TrimSpace(s)
	fail := func(err error) (string, age.Recipient, error) {
		return "", nil, fmt.Errorf("%w: recipient %q: %w", ErrIdentity, s, err)
	}
	if strings.ContainsAny(s, "\r\n") {
		return fail(errors.New("several lines; give each by itself, or name the file that has them"))
	}
	if strings.HasPrefix(s, "age1") {
		r, err := ageRecipient(s, plugins)
		if err != nil {
			return fail(err)
		}
		return s, r, nil
	}
	pub, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil {
		return fail(err)
	}
	if slices.Contains(options, "cert-authority") {
		return fail(unsupportedKey("the key of a certificate authority, not of a person"))
	}
	r, err := sshRecipient(pub)
	if err != nil {
		return fail(err)
	}
	return strings.TrimSpace(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " " + comment), r, nil
}

// errMistyped stands for what Bech32 says of a recipient, which is in terms of its own.
var errMistyped = errors.New("mistyped, or not all of it")

// ageRecipient reads a recipient in age's own notation. Bech32 has no 1 in what
// comes after the kind's name, but one before it.
func ageRecipient(s string, plugins *plugin.ClientUI) (age.Recipient, error) {
	switch kind := s[:strings.LastIndexByte(s, '1')]; kind {
	case "age":
		if r, err := age.ParseX25519Recipient(s); err == nil {
			return r, nil
		}
		return nil, errMistyped
	case "age1pq":
		if r, err := age.ParseHybridRecipient(s); err == nil {
			return r, nil
		}
		return nil, errMistyped
	}
	if name, _, err := plugin.ParseRecipient(s); err == nil && plugins == nil {
		return nil, fmt.Errorf("it needs the program age-plugin-%s, which is not run here: name a recipient that needs none", name)
	}
	return plugin.NewRecipient(s, plugins)
}

// minRSA is the least length of RSA keys in bits, age's own. It is less than what signatures need
// (internal/sshid): whoever has only such a key can open what is sealed to them, and vouch for nothing.
const minRSA = 2048

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
		return nil, unsupportedKey(fmt.Sprintf("an RSA key of fewer than %d bits", minRSA))
	}
	return nil, unsupportedKey(fmt.Sprintf("a key of type %s, to which age cannot encrypt", pub.Type()))
}

// unsupportedKey says what a well-formed SSH key is that cannot be a recipient.
type unsupportedKey string

func (u unsupportedKey) Error() string {
	return string(u) + "; use an ssh-ed25519 or ssh-rsa key of the same person, or an age key (age-keygen)"
}

// recipientsFile reads the recipients in a file, as text and parsed.
func recipientsFile(path string, plugins *plugin.ClientUI, skipped func(error)) (text []string, out []age.Recipient, err error) {
	b, err := trusted.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("recipient %q is neither a key nor a readable file: %w", path, err)
	}
	if b, err = sshkey.Text(b); err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", ErrIdentity, path, err)
	}
	var passed []error
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !isRecipient(line) {
			// Not quoted: the file may be a private key, given by mistake.
			return nil, nil, fmt.Errorf("%w: %s, line %d, is no recipient", ErrIdentity, path, i+1)
		}
		s, r, err := parseRecipient(line, plugins)
		var unsupported unsupportedKey
		switch {
		case errors.As(err, &unsupported):
			if skipped == nil {
				return nil, nil, fmt.Errorf("%w: %s, line %d: %w", ErrIdentity, path, i+1, unsupported)
			}
			passed = append(passed, fmt.Errorf("%s, line %d, is passed over: %w", path, i+1, unsupported))
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("%s, line %d: %w", path, i+1, err)
		}
		text, out = append(text, s), append(out, r)
	}
	switch {
	case len(out) == 0 && passed != nil:
		return nil, nil, fmt.Errorf("%w: nothing is left: %w", ErrIdentity, errors.Join(passed...))
	case len(out) == 0:
		return nil, nil, fmt.Errorf("%w: %s holds no recipient", ErrIdentity, path)
	}
	for _, p := range passed {
		skipped(p)
	}
	return text, out, nil
}
