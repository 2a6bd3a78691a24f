package setup_test

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/setup"
)

// TestConfigurations reads what was written as the services read it.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	k, err := setup.NewKeyService(setup.KeyServiceOptions{Dir: filepath.Join(t.TempDir(), "keys"),
		Hosts: []string{"keys.example.org"}, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	v, err := setup.NewVerifier(setup.VerifierOptions{Dir: filepath.Join(t.TempDir(), "verifier"), Cluster: "puhti",
		Hosts: []string{"verifier.example.org", "10.0.0.2"}, Listen: "0.0.0.0:8444", MungeUser: me(t),
		ServiceURL: "https://keys.example.org:8443", ServiceCA: k.CA})
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{v.CAKey: 0o600, v.TLSKey: 0o400, v.SigningKey: 0o400, v.CA: 0o644,
		v.Nodes: 0o644, v.Config: 0o644} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, st.Mode(), err, mode)
		}
	}
	got, err := config.LoadVerifier(v.Config)
	if err != nil || got.Cluster != "puhti" || got.TLSCert != v.TLSCert || got.TLSKey != v.TLSKey ||
		got.SigningKey != v.SigningKey || got.NodesFile != v.Nodes || got.MungeUser != me(t) || got.ServiceCA != k.CA ||
		got.Listen != "0.0.0.0:8444" {
		t.Errorf("verifier.conf: %+v, %v", got, err)
	}
	server, err := os.ReadFile(k.Config)
	if err != nil {
		t.Fatal(err)
	}
	enrol, err := os.ReadFile(v.Enrol)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.Config, append(server, enrol...), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadServer(k.Config)
	if err != nil || c.Name != "keys.example.org" || c.MasterKeyFile != k.MasterKey || c.DataDir != k.Data ||
		c.Audit != k.Audit || c.TLSCert != k.TLSCert || c.AllowedSigners != k.AllowedSigners || c.Listen != listen || len(c.Clusters) != 1 ||
		c.Clusters[0].VerifierURL != "https://verifier.example.org:8444" ||
		c.Clusters[0].VerifierCA != filepath.Join(filepath.Dir(k.Config), "verifier-ca.crt") {
		t.Errorf("server.conf: %+v, %v", c, err)
	}
}

// TestNothingIsOverwritten finds each file of a set-up in the way.
func TestNothingIsOverwritten(t *testing.T) {
	t.Parallel()
	o := setup.VerifierOptions{Dir: mkdir(t, t.TempDir(), "v"), Cluster: "puhti", Hosts: []string{"v"},
		Listen: "0.0.0.0:8444", MungeUser: me(t)}
	o.Offline = mkdir(t, filepath.Dir(o.Dir), "offline")
	l := o.Layout()
	for _, p := range []string{l.CA, l.CAKey, l.TLSCert, l.TLSKey, l.SigningKey, l.Config, l.Enrol, l.Nodes} {
		if err := os.WriteFile(p, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := setup.NewVerifier(o); err == nil || !strings.Contains(err.Error(), filepath.Base(p)+" exists") {
			t.Errorf("%s in the way: %v", p, err)
		}
		names, err := os.ReadDir(filepath.Dir(p))
		if b, _ := os.ReadFile(p); err != nil || len(names) != 1 || string(b) != "mine" {
			t.Errorf("%s in the way: %d files, %q", p, len(names), b)
		}
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := setup.NewVerifier(o); err != nil {
		t.Errorf("control: %v", err)
	}
}

// me is the user of the tests.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
