package setup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// Certificates are the PEM files of an authority and of a TLS server whose
// certificate it signed. The authority's key is needed only to renew the
// certificate, and lies in a directory of its own.
type Certificates struct{ CA, CAKey, TLSCert, TLSKey string }

// Lifetimes of certificates.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 2 * 365 * 24 * time.Hour
	// clockSlack is how far a clock may be slow that finds a new certificate valid.
	clockSlack = 24 * time.Hour
)

// maxPEM bounds a PEM file, in bytes.
const maxPEM = 1 << 20

// Load reads the server's certificate and key. Errors are of class Config.
func (c Certificates) Load() (tls.Certificate, error) {
	crt, err := trusted.ReadFile(c.TLSCert, maxPEM)
	if err != nil {
		return tls.Certificate{}, unread("TLS certificate", "tls-cert", err)
	}
	key, err := trusted.ReadSecret(c.TLSKey, maxPEM)
	if err != nil {
		return tls.Certificate{}, unread("TLS key", "tls-key", err)
	}
	defer clear(key)
	cert, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return cert, fault.New(fault.Config, fault.Reword(err, c.unfit(crt, key)), hintPutBack)
	}
	return cert, nil
}

const hintPutBack = "put both files back from a backup, or make a new certificate: docs/key-service.md has the command"

// unread is the error of a file that cannot be read.
func unread(what, key string, err error) error {
	hint := ""
	if errors.Is(err, fs.ErrNotExist) {
		hint = "look for a slip in " + key + " of the configuration; if the file is gone, " + hintPutBack
	}
	return fault.New(fault.Config, fmt.Errorf("%s: %w", what, err), hint)
}

// unfit says why a certificate and a key that were read are none, or do not go together.
func (c Certificates) unfit(crt, key []byte) string {
	block, _ := pem.Decode(key)
	switch {
	case !hasCertificate(crt):
		return fmt.Sprintf("TLS certificate %s: it is damaged, or no certificate in PEM", c.TLSCert)
	case block != nil && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""):
		return fmt.Sprintf("TLS key %s: it has a passphrase, which nobody can be asked for", c.TLSKey)
	case block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") && !strings.HasSuffix(block.Type, "PARAMETERS"):
		return fmt.Sprintf("TLS key %s: it is damaged, or no private key in PEM", c.TLSKey)
	case !hasKey(block.Bytes):
		return fmt.Sprintf("TLS key %s: it is damaged, or of a kind that TLS has no use for", c.TLSKey)
	}
	return fmt.Sprintf("TLS key %s: it does not belong to the certificate %s", c.TLSKey, c.TLSCert)
}

// hasCertificate reports whether the first certificate of a PEM file can be read.
func hasCertificate(b []byte) bool {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			_, err := x509.ParseCertificate(block.Bytes)
			return err == nil
		}
	}
	return false
}

func hasKey(der []byte) bool {
	_, pkcs8 := x509.ParsePKCS8PrivateKey(der)
	_, ec := x509.ParseECPrivateKey(der)
	_, rsa := x509.ParsePKCS1PrivateKey(der)
	return pkcs8 == nil || ec == nil || rsa == nil
}

// Check returns until when the server's certificate is good. One that is not good
// at time now, or does not belong to its key, is an error with a hint.
func (c Certificates) Check(now time.Time) (until time.Time, err error) {
	cert, err := c.Load()
	if err != nil {
		return time.Time{}, err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return time.Time{}, fmt.Errorf("TLS certificate: %w", err)
	}
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return leaf.NotAfter, fault.New(fault.Config, fmt.Errorf("TLS certificate %s is good from %s to %s, and it is %s now", c.TLSCert,
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
			"set the clock if it is wrong, else renew the certificate: docs/key-service.md has the command")
	}
	return leaf.NotAfter, nil
}

func (c Certificates) paths() []string {
	return []string{c.CA, c.CAKey, c.caCopy(), c.TLSCert, c.TLSKey}
}

// files returns an authority and a server certificate for hosts (names and
// addresses), as they are to be written.
func (c Certificates) files(hosts []string) ([]file, error) {
	now := time.Now()
	caKey, caCert, err := newCA(hosts[0], now)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	key, der, err := newServerCert(hosts, now, caKey, caCert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	caKeyPEM, err := keyPEM(caKey)
	if err != nil {
		return nil, err
	}
	tlsKeyPEM, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return []file{
		{c.CA, pemOf("CERTIFICATE", caCert.Raw), forAll}, {c.TLSCert, pemOf("CERTIFICATE", der), forAll},
		{c.CAKey, caKeyPEM, forOwner}, {c.caCopy(), pemOf("CERTIFICATE", caCert.Raw), forAll},
		{c.TLSKey, tlsKeyPEM, forService},
	}, nil
}

// caCopy is the authority's certificate beside its key, which leave together.
func (c Certificates) caCopy() string {
	return filepath.Join(filepath.Dir(c.CAKey), filepath.Base(c.CA))
}

// checkApart refuses to have the authority's key in the service's directory.
func (c Certificates) checkApart() error {
	served := filepath.Dir(c.CA)
	if path, err := from(served, c.CAKey); err != nil || !filepath.IsAbs(path) {
		return errors.Join(fmt.Errorf("set up: the authority's key would lie in %s, where the service runs", served), err)
	}
	return nil
}

// makeOffline makes the directory of the authority's key.
func (c Certificates) makeOffline() error { return makeDir(filepath.Dir(c.CAKey), 0o700) }

func newCA(name string, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "sealbatch CA of " + name},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, err
}

func newServerCert(hosts []string, now time.Time, caKey *ecdsa.PrivateKey, ca *x509.Certificate) (
	*ecdsa.PrivateKey, []byte, error,
) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: hosts[0]},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	return key, der, err
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// keyPEM returns a private key as PKCS#8.
func keyPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pemOf("PRIVATE KEY", der), nil
}
