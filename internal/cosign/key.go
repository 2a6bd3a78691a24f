package cosign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// ErrKey says that something is not a public key that signatures can be checked with.
var ErrKey = fault.Sentinel(fault.Usage, "not a public key of cosign's")

// Key is a public key whose signatures count.
type Key struct {
	public      crypto.PublicKey
	fingerprint [sha256.Size]byte
}

// Fingerprint returns the SHA-256 of the key in DER (SubjectPublicKeyInfo, RFC 5280), whatever form its file had:
// openssl pkey -pubin -in cosign.pub -outform DER | sha256sum.
func (k *Key) Fingerprint() [sha256.Size]byte { return k.fingerprint }

const maxKeyFile = 64 << 10

// ReadKey reads a public key from a file that nobody else may write: cosign.pub.
func ReadKey(path string) (*Key, error) {
	b, err := trusted.ReadFile(path, maxKeyFile)
	if err != nil {
		hint := fault.Hint(err)
		if errors.Is(err, fs.ErrNotExist) {
			hint = "name the file of the public key, cosign.pub; of a key that lies elsewhere, cosign public-key --key KEY prints it"
		}
		return nil, fault.New(fault.Usage, fmt.Errorf("the key for signatures: %w", err), hint)
	}
	k, err := ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

const minRSA = 2048 // bits, cosign's own least

// ParseKey reads a public key in PEM: ECDSA over P-256, P-384 or P-521, Ed25519, or RSA.
func ParseKey(b []byte) (*Key, error) {
	block, rest := pem.Decode(b)
	switch {
	case block == nil:
		return nil, noKey("it holds no PEM", "cosign generate-key-pair writes the key to give here into cosign.pub")
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return nil, noKey("it is a private key", "give the public one beside it, cosign.pub")
	case block.Type == "CERTIFICATE":
		return nil, noKey("it is a certificate", "give the public key alone: openssl x509 -pubkey -noout -in FILE")
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, noKey("something follows the key", "give one key in one file")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if block.Type == "RSA PUBLIC KEY" {
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	}
	if err != nil {
		return nil, noKey(err.Error(), "cosign public-key --key cosign.key prints it anew")
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if hashOf(k.Curve) == 0 {
			return nil, noKey("its curve "+k.Params().Name+" is none of cosign's",
				"cosign generate-key-pair makes P-256")
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return nil, noKey(fmt.Sprintf("an RSA key of %d bits is too weak", k.N.BitLen()),
				"cosign generate-key-pair makes a better one")
		}
	case ed25519.PublicKey:
	default:
		return nil, noKey(fmt.Sprintf("%T is no kind of key that cosign has", public),
			"cosign generate-key-pair makes one")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, noKey(err.Error(), "")
	}
	return &Key{public, sha256.Sum256(der)}, nil
}

func noKey(why, hint string) error {
	return fault.New(fault.Usage, fmt.Errorf("%w: %s", ErrKey, why), hint)
}

// hashOf returns what cosign hashes with before it signs with a curve; 0 if it has no such keys.
func hashOf(c elliptic.Curve) crypto.Hash {
	switch c {
	case elliptic.P256():
		return crypto.SHA256
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return 0
}

var errSignature = errors.New("not signed by the key")

// verify checks a signature of message as cosign makes it: ECDSA in ASN.1 and RSA in
// PKCS#1 v1.5 over a hash, Ed25519 over SHA-512 (Ed25519ph, RFC 8032), or over the message itself,
// as older versions do.
func (k *Key) verify(message, signature []byte) error {
	ok := false
	switch p := k.public.(type) {
	case *ecdsa.PublicKey:
		h := hashOf(p.Curve).New()
		h.Write(message)
		ok = ecdsa.VerifyASN1(p, h.Sum(nil), signature)
	case *rsa.PublicKey:
		sum := sha256.Sum256(message)
		ok = rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		sum := sha512.Sum512(message)
		ok = ed25519.VerifyWithOptions(p, sum[:], signature, &ed25519.Options{Hash: crypto.SHA512}) == nil ||
			ed25519.Verify(p, message, signature)
	}
	if !ok {
		return errSignature
	}
	return nil
}
