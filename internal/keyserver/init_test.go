package keyserver_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "service")
	l, err := keyserver.Init(dir, []string{"keys.example.org", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := manifest.DecodeKey(l.StatementKey)
	if err != nil || !keyapi.ServiceKeyMatches(l.ServiceID, key) || !strings.HasPrefix(l.ServiceID, "keys.example.org#") {
		t.Errorf("id %q, key %q: %v", l.ServiceID, l.StatementKey, err)
	}
	for path, mode := range map[string]os.FileMode{l.CAKey: 0o600, l.TLSKey: 0o600, l.MasterKey: 0o600, l.StoreFile: 0o600, l.Audit: 0o600, l.Data: 0o700} {
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
	if _, err := keyserver.Init(dir, []string{"other"}); err == nil {
		t.Error("a second Init on the same directory is accepted")
	}
	if after, err := os.ReadFile(l.MasterKey); err != nil || string(after) != string(before) {
		t.Errorf("a second Init changed the master key (%v)", err)
	}
	if _, err := keyserver.Init(t.TempDir(), nil); err == nil {
		t.Error("Init without a host is accepted")
	}
}

func checkChain(t *testing.T, l keyserver.Layout) {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(l.CAPEM) {
		t.Fatal("no CA")
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

// TestNameIsKept refuses to run a store under another name.
func TestNameIsKept(t *testing.T) {
	t.Parallel()
	l, err := keyserver.Init(filepath.Join(t.TempDir(), "s"), []string{"one"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := boltstore.LoadMasterKey(l.MasterKey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := boltstore.Open(l.StoreFile, k)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	keys, err := boltstore.OpenKeys(t.Context(), st, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := keyserver.Config{Name: "two", Store: st, Keys: keys, AuditLog: l.Audit, AllowedSigners: l.AllowedSigners}
	if _, err := keyserver.New(cfg); err == nil || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("another name: %v", err)
	}
	cfg.Name = "one"
	s, err := keyserver.New(cfg)
	if err != nil || s.ID() != l.ServiceID {
		t.Fatalf("the same name: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
