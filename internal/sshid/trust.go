package sshid

import (
	"bytes"
	"errors"
	"fmt"
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
	// Allowed are the lines of an allowed_signers file.
	Allowed []AllowedSigner
	// File names that file in errors; empty if there is none.
	File string
}

// OwnPrincipal is the principal that Check returns for one's own keys.
const OwnPrincipal = "own key"

// Check verifies sig over message in namespace and returns the principals of
// the first trusted line, or OwnPrincipal. It fails with ErrBadSignature or,
// if the signature holds but its key does not count at time at, ErrUntrusted.
func (t Trust) Check(namespace string, message, sig []byte, at time.Time) (principal string, err error) {
	key, err := VerifySSH(namespace, message, sig)
	if err != nil {
		return "", err
	}
	cert, certified := key.(*ssh.Certificate)
	for _, k := range t.Own {
		if sameKey(k, plainKey(key)) {
			return OwnPrincipal, nil
		}
	}
	listed := false
	for _, a := range t.Allowed {
		plain := !a.CertAuthority && sameKey(a.Key, plainKey(key))
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
	return "", t.untrusted(namespace, key, listed)
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
	return fmt.Errorf("%w: %s\nif you know whose key this is, add this line to %s:\n  NAME %s",
		ErrUntrusted, Fingerprint(key), file, line)
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
