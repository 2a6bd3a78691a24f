// Package sshkey reads SSH keys in the shapes in which people have them, as ssh does: private keys in
// OpenSSH's own format and in PEM (PKCS#1 and SEC 1, whose header DEK-Info may say how they are encrypted, and
// PKCS#8, encrypted or not), and public keys with or without the options of authorized_keys before them. Text
// may have CRLF line ends, and begin with a byte order mark.
package sshkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
	"golang.org/x/crypto/ssh"
)

// Errors of private keys; an encrypted one without a passphrase is an *ssh.PassphraseMissingError.
var (
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrHandle: the key lies in a security key, and only ssh-agent can use it.
	ErrHandle = errors.New("it is the handle of a security key, which is used through the agent: ssh-add it")
	// ErrUTF16: the text is in an encoding that neither ssh nor age reads.
	ErrUTF16 = errors.New("it is UTF-16 text, as PowerShell writes it; save it as UTF-8 or ASCII")
)

// Text returns what a text file holds, without a byte order mark.
func Text(b []byte) ([]byte, error) {
	if bytes.HasPrefix(b, []byte{0xff, 0xfe}) || bytes.HasPrefix(b, []byte{0xfe, 0xff}) {
		return nil, ErrUTF16
	}
	return bytes.TrimPrefix(b, []byte("\ufeff")), nil
}

// encryptedPKCS8 is the PEM type of RFC 5958's EncryptedPrivateKeyInfo.
const encryptedPKCS8 = "ENCRYPTED PRIVATE KEY"

// Private reads a private key; passphrase is nil where it is not encrypted, or not known.
func Private(b, passphrase []byte) (any, error) {
	b, err := Text(b)
	if err != nil {
		return nil, err
	}
	var key any
	block, _ := pem.Decode(b)
	switch {
	case block != nil && block.Type == encryptedPKCS8 && passphrase == nil:
		return nil, &ssh.PassphraseMissingError{}
	case block != nil && block.Type == encryptedPKCS8:
		key, err = decryptPKCS8(block.Bytes, passphrase)
	case passphrase == nil:
		key, err = ssh.ParseRawPrivateKey(b)
	default:
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(b, passphrase)
		if err != nil { // with the old format a wrong one may only show in what comes out
			err = fmt.Errorf("%w: %w", ErrPassphrase, err)
		}
	}
	switch {
	case err != nil && isHandle(block):
		return nil, ErrHandle
	case err != nil:
		return nil, err
	}
	if k, ok := key.(ed25519.PrivateKey); ok { // PKCS#8's, where OpenSSH's is a pointer
		return &k, nil
	}
	return key, nil
}

// decryptPKCS8 opens an encrypted PKCS#8 key. The library panics at parameters that do not fit.
func decryptPKCS8(der, passphrase []byte) (key any, err error) {
	defer func() {
		if recover() != nil {
			key, err = nil, errors.New("a damaged private key")
		}
	}()
	key, _, err = pkcs8.ParsePrivateKey(der, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, x509.IncorrectPasswordError)
	}
	return key, nil
}

// isHandle reports whether an OpenSSH key is of a security key: its public half, in the clear, says so
// (PROTOCOL.key).
func isHandle(block *pem.Block) bool {
	return block != nil && block.Type == "OPENSSH PRIVATE KEY" &&
		(bytes.Contains(block.Bytes, []byte("sk-ssh-ed25519@openssh.com")) ||
			bytes.Contains(block.Bytes, []byte("sk-ecdsa-sha2-nistp256@openssh.com")))
}

// Signer reads a private key that signs.
func Signer(b, passphrase []byte) (ssh.Signer, error) {
	key, err := Private(b, passphrase)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// Public reads the first public key of a text, with options before it or not.
func Public(b []byte) (ssh.PublicKey, error) {
	b, err := Text(b)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(b)
	return key, err
}
