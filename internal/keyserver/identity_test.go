package keyserver_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/setup"
)

// TestNameIsKept refuses to run a store under another name.
func TestNameIsKept(t *testing.T) {
	t.Parallel()
	l, err := setup.NewKeyService(setup.KeyServiceOptions{Dir: filepath.Join(t.TempDir(), "s"),
		Hosts: []string{"one"}, Listen: "127.0.0.1:8443"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := boltstore.LoadMasterKey(l.MasterKey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := boltstore.Open(l.Store, k)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	keys, err := slotstore.Open(t.Context(), st.Home(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	cfg := keyserver.Config{Name: "two", Store: st, Keys: keys, AuditLog: l.Audit, AllowedSigners: l.AllowedSigners}
	if _, err := keyserver.New(cfg); err == nil || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("another name: %v", err)
	}
	cfg.Name = "one"
	s, err := keyserver.New(cfg)
	if err != nil || s.ID() != l.ID {
		t.Fatalf("the same name: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
