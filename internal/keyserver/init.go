package keyserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
)

// Layout is where Init puts what a key service needs. CA is for clients'
// ca-cert; CAKey is needed only to renew the certificate and is best kept
// elsewhere; MasterKey lies outside Data on purpose.
type Layout struct {
	CA, CAKey         string // PEM
	TLSCert, TLSKey   string // PEM
	MasterKey         string // 64 hex digits
	Data              string // directory, 0700
	StoreFile, Audit  string // in Data
	AllowedSigners    string // empty at first: no accounts
	Name, ServiceID   string
	StatementKey      string // base64url
	CAPEM             []byte
	CertificateExpiry time.Time
}

// Lifetimes of what Init makes.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 2 * 365 * 24 * time.Hour
	// clockSlack is how far a clock may be slow that finds a new certificate valid.
	clockSlack = 24 * time.Hour
)

// LayoutOf names the files below dir.
func LayoutOf(dir string) Layout {
	in := func(n ...string) string { return filepath.Join(append([]string{dir}, n...)...) }
	return Layout{
		CA: in("ca.crt"), CAKey: in("ca.key"), TLSCert: in("tls.crt"), TLSKey: in("tls.key"),
		MasterKey: in("master.key"), Data: in("data"), StoreFile: in("data", "store.db"),
		Audit: in("data", "audit.log"), AllowedSigners: in("accounts"),
	}
}

// Init makes all that a key service needs below dir: a certificate authority
// of its own, a TLS certificate for hosts (names and addresses; the first is
// also the service's name), a master key, the store with the statement key and
// an empty file of accounts. Nothing that exists is overwritten.
func Init(dir string, hosts []string) (Layout, error) {
	l := LayoutOf(dir)
	if len(hosts) == 0 {
		return l, errors.New("key service: no host name or address for its certificate")
	}
	for _, p := range []string{l.CA, l.CAKey, l.TLSCert, l.TLSKey, l.MasterKey, l.StoreFile, l.Audit} {
		if _, err := os.Lstat(p); err == nil {
			return l, fmt.Errorf("%s exists: a key service was set up here before; nothing was changed", p)
		}
	}
	if err := os.MkdirAll(l.Data, 0o700); err != nil {
		return l, fmt.Errorf("key service: %w", err)
	}
	if err := l.WriteCertificates(hosts); err != nil {
		return l, err
	}
	var k boltstore.MasterKey
	rand.Read(k[:]) // never fails
	if err := writeNew(l.MasterKey, []byte(hex.EncodeToString(k[:])+"\n"), 0o600); err != nil {
		return l, err
	}
	if err := writeNew(l.AllowedSigners, []byte(accountsHeader), 0o644); err != nil && !errors.Is(err, os.ErrExist) {
		return l, err
	}
	return l, l.firstStart(hosts[0], k)
}

const accountsHeader = `# Accounts of the key service, in OpenSSH's allowed_signers format (ssh-keygen(1)):
#   NAME ssh-ed25519 AAAA...
# NAME is the account. Several lines with one NAME are several keys of it.
`

// firstStart makes the service's identity, which is all that the first start does.
func (l *Layout) firstStart(name string, k boltstore.MasterKey) error {
	st, err := boltstore.Open(l.StoreFile, k)
	if err != nil {
		return err
	}
	keys, err := boltstore.OpenKeys(context.Background(), st, nil)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	l.Name = serviceName(name)
	srv, err := New(Config{Name: l.Name, Store: st, Keys: keys, AuditLog: l.Audit, AllowedSigners: l.AllowedSigners})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	l.ServiceID, l.StatementKey = srv.ID(), srv.statementKey()
	return errors.Join(srv.Close(), st.Close())
}

// serviceName turns a host into a service's name.
func serviceName(host string) string {
	if serviceNameRE.MatchString(host) {
		return host
	}
	return "sealbatch"
}

// WriteCertificates makes the authority CA and a server certificate for hosts.
// Nothing that exists is overwritten. CAPEM and CertificateExpiry are set.
func (l *Layout) WriteCertificates(hosts []string) error {
	now := time.Now()
	caKey, caCert, err := newCA(hosts[0], now)
	if err != nil {
		return fmt.Errorf("key service: certificate authority: %w", err)
	}
	key, der, err := newServerCert(hosts, now, caKey, caCert)
	if err != nil {
		return fmt.Errorf("key service: certificate: %w", err)
	}
	l.CAPEM = pemOf("CERTIFICATE", caCert.Raw)
	l.CertificateExpiry = now.Add(certLife)
	files := []struct {
		path string
		body []byte
		mode os.FileMode
	}{{l.CA, l.CAPEM, 0o644}, {l.TLSCert, pemOf("CERTIFICATE", der), 0o644}, {l.CAKey, nil, 0o600}, {l.TLSKey, nil, 0o600}}
	for i, k := range []*ecdsa.PrivateKey{caKey, key} {
		b, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return fmt.Errorf("key service: %w", err)
		}
		files[2+i].body = pemOf("PRIVATE KEY", b)
	}
	for _, f := range files {
		if err := writeNew(f.path, f.body, f.mode); err != nil {
			return err
		}
	}
	return nil
}

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

func newServerCert(hosts []string, now time.Time, caKey *ecdsa.PrivateKey, ca *x509.Certificate) (*ecdsa.PrivateKey, []byte, error) {
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

// LoadCertificate reads the server's TLS certificate and key.
func (l Layout) LoadCertificate() (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(l.TLSCert, l.TLSKey)
	if err != nil {
		return c, fmt.Errorf("TLS certificate: %w", err)
	}
	return c, nil
}

// writeNew writes a file that must not exist, durably.
func writeNew(path string, b []byte, mode os.FileMode) error {
	err := fsx.WriteNew(path, b, mode)
	if err == nil {
		err = fsx.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("key service: %w", err)
	}
	return nil
}
