package setup_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
)

const listen = "127.0.0.1:8443"

func TestNewKeyService(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "service")
	l, err := setup.NewKeyService(dir, []string{"keys.example.org", "10.0.0.1"}, listen)
	if err != nil {
		t.Fatal(err)
	}
	key, err := manifest.DecodeKey(l.StatementKey)
	if err != nil || !keyapi.ServiceKeyMatches(l.ID, key) || !strings.HasPrefix(l.ID, "keys.example.org#") {
		t.Errorf("id %q, key %q: %v", l.ID, l.StatementKey, err)
	}
	for path, mode := range map[string]os.FileMode{l.CAKey: 0o600, l.TLSKey: 0o600, l.MasterKey: 0o600, l.Store: 0o600,
		l.Audit: 0o600, l.Data: 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, st.Mode(), err, mode)
		}
	}
	if rel, err := filepath.Rel(l.Data, l.MasterKey); err != nil || !strings.HasPrefix(rel, "..") {
		t.Errorf("the master key lies beside the data: %s", rel)
	}
	checkChain(t, l)
	before, err := os.ReadFile(l.MasterKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := setup.NewKeyService(dir, []string{"other"}, listen); err == nil {
		t.Error("a second set-up on the same directory is accepted")
	}
	if after, err := os.ReadFile(l.MasterKey); err != nil || string(after) != string(before) {
		t.Errorf("a second set-up changed the master key (%v)", err)
	}
	if _, err := setup.NewKeyService(t.TempDir(), nil, listen); err == nil {
		t.Error("a set-up without a host is accepted")
	}
}

func checkChain(t *testing.T, l setup.KeyService) {
	t.Helper()
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(l.CA)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no CA", err)
	}
	b, err := os.ReadFile(l.TLSCert)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for host, ok := range map[string]bool{"keys.example.org": true, "10.0.0.1": true, "other.example.org": false} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); (err == nil) != ok {
			t.Errorf("certificate for %s: %v", host, err)
		}
	}
}
