package sshid

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrUntrusted says that a signature holds, but nobody vouches for its key.
var ErrUntrusted = errors.New("signed by a key that is not trusted")

// Trust says whose signatures count. The zero value trusts nobody.
type Trust struct {
	// Own are one's own keys, trusted for every namespace.
	Own []ssh.PublicKey
	// Others returns further keys of one's own, such as earlier ones, with what they may
	// sign and when; nil for none. It is asked only of signatures by a key that is
	// neither own nor listed in Allowed: of a listed one, the list has the last word.
	Others func() ([]AllowedSigner, error)
	// Allowed are the lines of an allowed_signers file.
	Allowed []AllowedSigner
	// File names that file in errors; empty if there is none.
	File string
}

// OwnPrincipal and OtherPrincipal are the principals that Check returns for one's own keys.
const (
	OwnPrincipal   = "own key"
	OtherPrincipal = "another key of your own"
)

// Check verifies sig over message in namespace and returns the principals of
// the first trusted line, or OwnPrincipal, or OtherPrincipal. It fails with
// ErrBadSignature or, if the signature holds but its key does not count, ErrUntrusted:
// an allowed one has to at time at, another of one's own at the time when the message
// says that it was made.
func (t Trust) Check(namespace string, message, sig []byte, at, made time.Time) (principal string, err error) {
	key, err := VerifySSH(namespace, message, sig)
	if err != nil {
		return "", err
	}
	cert, certified := key.(*ssh.Certificate)
	if t.isOwn(key) {
		return OwnPrincipal, nil
	}
	listed := false // the key, or the authority of its certificate
	for _, a := range t.Allowed {
		plain := a.lists(key)
		authority := a.CertAuthority && certified && sameKey(a.Key, cert.SignatureKey)
		if !plain && !authority {
			continue
		}
		listed = true
		if !a.Allows(namespace, at) {
			continue
		}
		if plain {
			return strings.Join(a.Principals, ","), nil
		}
		if p, ok := certPrincipal(a, cert, at); ok {
			return p, nil
		}
	}
	if t.isListed(key) {
		return "", t.untrusted(namespace, key, true)
	}
	other, err := t.isOther(namespace, key, made)
	switch {
	case other:
		return OtherPrincipal, nil
	case err != nil:
		return "", fmt.Errorf("%w\nwhether it is another key of your own could not be found out: %w",
			t.untrusted(namespace, key, listed), err)
	}
	return "", t.untrusted(namespace, key, listed)
}

// IsOwn reports whether key is one of one's own, as far as it counts for what was
// signed in namespace at time made. One that Allowed lists has to be allowed at time at,
// too.
func (t Trust) IsOwn(key ssh.PublicKey, namespace string, at, made time.Time) (bool, error) {
	if t.isOwn(key) {
		return true, nil
	}
	allowed := func(a AllowedSigner) bool { return a.lists(key) && a.Allows(namespace, at) }
	if t.isListed(key) && !slices.ContainsFunc(t.Allowed, allowed) {
		return false, nil
	}
	return t.isOther(namespace, key, made)
}

// isListed reports whether a line of Allowed is for key itself.
func (t Trust) isListed(key ssh.PublicKey) bool {
	return slices.ContainsFunc(t.Allowed, func(a AllowedSigner) bool { return a.lists(key) })
}

// lists reports whether a line is for key itself, not for an authority.
func (a AllowedSigner) lists(key ssh.PublicKey) bool {
	return !a.CertAuthority && sameKey(a.Key, plainKey(key))
}

func (t Trust) isOwn(key ssh.PublicKey) bool {
	return slices.ContainsFunc(t.Own, func(k ssh.PublicKey) bool { return sameKey(k, plainKey(key)) })
}

// isOther reports whether key is one of one's own that counted in namespace at time made.
func (t Trust) isOther(namespace string, key ssh.PublicKey, made time.Time) (bool, error) {
	if t.Others == nil {
		return false, nil
	}
	others, err := t.Others()
	return slices.ContainsFunc(others, func(a AllowedSigner) bool {
		return a.lists(key) && a.Allows(namespace, made)
	}), err
}

func (t Trust) untrusted(namespace string, key ssh.PublicKey, listed bool) error {
	file := t.File
	if file == "" {
		file = "the file that [trust] allowed-signers names"
	}
	if listed {
		return fmt.Errorf("%w: %s is listed in %s, but not for namespace %q at this time (see its namespaces=, valid-after= and valid-before=)",
			ErrUntrusted, Fingerprint(key), file, namespace)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(plainKey(key))))
	return fmt.Errorf("%w: %s\nif you know whose key this is, add this line to %s:\n  NAME namespaces=%q %s",
		ErrUntrusted, Fingerprint(key), file, namespace, line)
}

// certPrincipal returns the first of the certificate's principals that the
// authority's line admits. A certificate for everybody, without principals,
// says nothing of who signed and is not accepted.
func certPrincipal(a AllowedSigner, c *ssh.Certificate, at time.Time) (string, bool) {
	if c.CertType != ssh.UserCert {
		return "", false
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return at }}
	for _, p := range c.ValidPrincipals {
		if a.Matches(p) && checker.CheckCert(p, c) == nil {
			return p, true
		}
	}
	return "", false
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
