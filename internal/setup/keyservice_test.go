package setup_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
)

const listen = "127.0.0.1:8443"

func TestNewKeyService(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "service")
	o := setup.KeyServiceOptions{Dir: dir, Hosts: []string{"keys.example.org", "10.0.0.1"}, Listen: listen}
	l, err := setup.NewKeyService(o)
	if err != nil {
		t.Fatal(err)
	}
	key, err := manifest.DecodeKey(l.StatementKey)
	if err != nil || !keyapi.ServiceKeyMatches(l.ID, key) || !strings.HasPrefix(l.ID, "keys.example.org#") {
		t.Errorf("id %q, key %q: %v", l.ID, l.StatementKey, err)
	}
	for path, mode := range map[string]os.FileMode{l.CAKey: 0o600, l.TLSKey: 0o400, l.MasterKey: 0o400, l.Store: 0o600,
		l.Audit: 0o600, l.Data: 0o700, filepath.Dir(l.CAKey): 0o700, filepath.Dir(l.MasterKey): 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, st.Mode(), err, mode)
		}
	}
	for _, path := range []string{l.MasterKey, l.CAKey} {
		if rel, err := filepath.Rel(dir, path); err != nil || !strings.HasPrefix(rel, "../") {
			t.Errorf("a key lies where the service is: %s", rel)
		}
	}
	checkChain(t, l)
	before, err := os.ReadFile(l.MasterKey)
	if err != nil {
		t.Fatal(err)
	}
	o.Hosts = []string{"other"}
	if _, err := setup.NewKeyService(o); err == nil {
		t.Error("a second set-up on the same directory is accepted")
	}
	if after, err := os.ReadFile(l.MasterKey); err != nil || string(after) != string(before) {
		t.Errorf("a second set-up changed the master key (%v)", err)
	}
}

func TestNewKeyServiceRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(top string, o *setup.KeyServiceOptions){
		"no host":                          func(_ string, o *setup.KeyServiceOptions) { o.Hosts = nil },
		"no such user":                     func(_ string, o *setup.KeyServiceOptions) { o.User = "nobody-of-that-name" },
		"the authority's key in Dir":       func(_ string, o *setup.KeyServiceOptions) { o.Offline = o.Dir },
		"the authority's key below Dir":    func(_ string, o *setup.KeyServiceOptions) { o.Offline = o.Dir + "/ca" },
		"a data directory with things":     func(top string, o *setup.KeyServiceOptions) { o.Data = top },
		"a directory of everybody's":       func(top string, _ *setup.KeyServiceOptions) { _ = os.Chmod(top, 0o777) },
		"a directory of a group's":         func(top string, _ *setup.KeyServiceOptions) { _ = os.Chmod(top, 0o775) },
		"a master key in a group's":        func(top string, o *setup.KeyServiceOptions) { o.Master = groups(top) },
		"the authority's key in a group's": func(top string, o *setup.KeyServiceOptions) { o.Offline = groups(top) },
	} {
		top := mkdir(t, t.TempDir(), "top")
		mkdir(t, top, "thing")
		o := setup.KeyServiceOptions{Dir: filepath.Join(top, "s"), Hosts: []string{"h"}, Listen: listen}
		change(top, &o)
		if _, err := setup.NewKeyService(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Stat(o.Layout().TLSKey); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something was written: %v", name, err)
		}
	}
}

// groups makes a directory that a group can write.
func groups(top string) string {
	dir := filepath.Join(top, "group's")
	_ = errors.Join(os.Mkdir(dir, 0o770), os.Chmod(dir, 0o2770))
	return dir
}

// TestForAnotherUser sets both services up as root for users of their own: those
// can read their secrets and write the data, and nothing else, whatever the umask
// is. It runs as root, and as nobody looks at what came of it.
func TestForAnotherUser(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	const service = "nobody"
	top := mkdir(t, t.TempDir(), "top")
	for dir := top; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k, err := setup.NewKeyService(setup.KeyServiceOptions{Dir: filepath.Join(top, "keys"), Hosts: []string{"h"},
		Listen: listen, User: service, Data: filepath.Join(top, "data")})
	if err != nil {
		t.Fatal(err)
	}
	v, err := setup.NewVerifier(setup.VerifierOptions{Dir: filepath.Join(top, "ver"), Cluster: "c",
		Hosts: []string{"h"}, Listen: listen, MungeUser: service})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{k.Config, k.AllowedSigners, k.CA, k.TLSCert, k.StatementPub, v.Config, v.Nodes, v.CA, v.TLSCert,
		v.Enrol}
	for what, paths := range map[string][]string{
		"reads, does not write": append(all, k.TLSKey, k.MasterKey, v.TLSKey, v.SigningKey),
		"does not read":         {k.CAKey, v.CAKey},
		"reads and writes":      {k.Store, k.Audit, k.Data},
		"does not write": {filepath.Dir(k.Config), filepath.Dir(k.MasterKey), filepath.Dir(k.CAKey),
			filepath.Dir(v.Config)},
	} {
		want := [2]bool{what == "reads, does not write" || what == "reads and writes", what == "reads and writes"}
		for _, path := range paths {
			got := [2]bool{can(service, "-r", path), can(service, "-w", path)}
			if got[1] != want[1] || (got[0] != want[0] && what != "does not write") {
				t.Errorf("%s: %s %s: it reads, writes: %v", path, service, what, got)
			}
		}
	}
	for _, secret := range []string{k.TLSKey, k.MasterKey, k.CAKey, k.Store, k.Data, v.TLSKey, v.SigningKey, v.CAKey} {
		if can("daemon", "-r", secret) {
			t.Errorf("%s: others can read it", secret)
		}
	}
}

// can reports whether a user can read or write a path.
func can(user, how, path string) bool {
	return exec.Command("setpriv", "--reuid", user, "--regid=65534", "--clear-groups", "test", how, path).Run() == nil
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
