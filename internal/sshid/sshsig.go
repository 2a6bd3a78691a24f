package sshid

import (
	"bytes"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// ErrBadSignature says that a signature is malformed, made for another
// purpose or by a weak algorithm, or does not cover the message.
var ErrBadSignature = errors.New("SSH signature does not hold")

// ErrWeakKey says that a key is of a kind or size that is not accepted.
var ErrWeakKey = errors.New("SSH key is not accepted")

const (
	// maxSignature bounds a signature, armoured or not, in bytes. RSA 16384
	// takes 6 KiB; a certificate with many principals somewhat more.
	maxSignature = 64 << 10
	// minRSABits follows NIST SP 800-57 part 1 for protection beyond 2030.
	minRSABits = 3072
)

// signatureFormats lists, by key type, the signature algorithms that are
// accepted. SHA-1 ("ssh-rsa") and DSA are absent on purpose.
var signatureFormats = map[string][]string{
	ssh.KeyAlgoED25519:    {ssh.KeyAlgoED25519},
	ssh.KeyAlgoECDSA256:   {ssh.KeyAlgoECDSA256},
	ssh.KeyAlgoECDSA384:   {ssh.KeyAlgoECDSA384},
	ssh.KeyAlgoECDSA521:   {ssh.KeyAlgoECDSA521},
	ssh.KeyAlgoSKED25519:  {ssh.KeyAlgoSKED25519},
	ssh.KeyAlgoSKECDSA256: {ssh.KeyAlgoSKECDSA256},
	ssh.KeyAlgoRSA:        {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// SignSSH returns an armoured SSHSIG of message, made over its SHA-512. RSA
// keys sign with rsa-sha2-512.
func SignSSH(signer ssh.Signer, namespace string, message []byte) ([]byte, error) {
	if err := CheckKey(signer.PublicKey()); err != nil {
		return nil, err
	}
	s, err := sshsig.Sign(bytes.NewReader(message), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", Fingerprint(signer.PublicKey()), err)
	}
	b := sshsig.Armor(s)
	// An agent answers as it likes: old ones ignore the demand for SHA-2.
	if _, err := VerifySSH(namespace, message, b); err != nil {
		return nil, fmt.Errorf("sign with %s: the agent's answer: %w", Fingerprint(signer.PublicKey()), err)
	}
	return b, nil
}

// VerifySSH checks an SSHSIG, armoured or as a raw blob, over message in
// namespace and returns the key that made it: an *ssh.Certificate where the
// signer used one. Whether that key is trusted is for the caller to decide;
// Trust.Check does both.
func VerifySSH(namespace string, message, sig []byte) (ssh.PublicKey, error) {
	s, err := parseSignature(sig)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadSignature, err)
	}
	if namespace == "" || s.Namespace != namespace {
		return nil, fmt.Errorf("%w: made for %.60q, not for %.60q", ErrBadSignature, s.Namespace, namespace)
	}
	if err := CheckKey(s.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	if t := plainKey(s.PublicKey).Type(); !slices.Contains(signatureFormats[t], s.Signature.Format) {
		return nil, fmt.Errorf("%w: algorithm %.40q under a key of type %s", ErrBadSignature, s.Signature.Format, t)
	}
	err = sshsig.Verify(bytes.NewReader(message), s, s.PublicKey, s.HashAlgorithm, namespace)
	if err != nil {
		return nil, fmt.Errorf("%w: %s did not sign these bytes", ErrBadSignature, Fingerprint(s.PublicKey))
	}
	return s.PublicKey, nil
}

// CheckKey refuses, with ErrWeakKey, keys of unknown kind, DSA keys and RSA
// keys below 3072 bits; for a certificate it looks at the certified key.
func CheckKey(k ssh.PublicKey) error {
	k = plainKey(k)
	if _, ok := signatureFormats[k.Type()]; !ok {
		return fmt.Errorf("%w: type %.40q; use Ed25519, ECDSA, a security key or RSA", ErrWeakKey, k.Type())
	}
	if k.Type() != ssh.KeyAlgoRSA {
		return nil
	}
	c, ok := k.(ssh.CryptoPublicKey)
	if !ok {
		return fmt.Errorf("%w: RSA key of unknown size", ErrWeakKey)
	}
	r, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok || r.N.BitLen() < minRSABits {
		return fmt.Errorf("%w: RSA key %s is shorter than %d bits; it opens what is sealed to it, and signs nothing: "+
			"make a new one with ssh-keygen -t ed25519", ErrWeakKey, Fingerprint(k), minRSABits)
	}
	return nil
}

// Fingerprint returns a key's SHA-256 fingerprint as ssh-keygen -l prints it;
// of a certificate, that of the certified key.
func Fingerprint(k ssh.PublicKey) string { return ssh.FingerprintSHA256(plainKey(k)) }

// plainKey looks through a certificate.
func plainKey(k ssh.PublicKey) ssh.PublicKey {
	if c, ok := k.(*ssh.Certificate); ok {
		return c.Key
	}
	return k
}

// parseSignature takes a raw blob, or armour with nothing around it: PEM
// readers otherwise skip text before and after a block.
func parseSignature(b []byte) (*sshsig.Signature, error) {
	if len(b) > maxSignature {
		return nil, fmt.Errorf("larger than %d bytes", maxSignature)
	}
	if bytes.HasPrefix(b, []byte("SSHSIG")) {
		return sshsig.ParseSignature(b)
	}
	if !bytes.HasPrefix(b, []byte("-----BEGIN "+sshsig.PEMType+"-----")) {
		return nil, errors.New("neither an armoured signature nor a raw one")
	}
	p, rest := pem.Decode(b)
	if p == nil || p.Type != sshsig.PEMType || len(p.Headers) > 0 {
		return nil, errors.New("damaged armour")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("text follows the signature")
	}
	return sshsig.ParseSignature(p.Bytes)
}
