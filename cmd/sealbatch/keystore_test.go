package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/storetest/madeup"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
)

// keyServiceDir sets up a key service with an account alice, a cluster and more
// lines of server.conf.
func keyServiceDir(t *testing.T, alice ssh.PublicKey, verifier ed25519.PublicKey, more string) (conf string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	a := &app{stdout: io.Discard, stderr: io.Discard, log: slog.New(slog.DiscardHandler)}
	if err := initServer(a, setup.KeyServiceOptions{Dir: dir, Hosts: []string{"localhost", "127.0.0.1"},
		Listen: "127.0.0.1:8443"}); err != nil {
		t.Fatal(err)
	}
	conf = filepath.Join(dir, "server.conf")
	more += fmt.Sprintf("\n[cluster c]\nverifier-url = https://localhost:1\nverifier-ca = ca.crt\n"+
		"munge-user = slurm\nverifier-key = %s\n", base64.StdEncoding.EncodeToString(verifier))
	accounts := "alice " + string(ssh.MarshalAuthorizedKey(alice))
	for path, text := range map[string]string{conf: more, filepath.Join(dir, "accounts"): accounts} {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return conf
}

// TestMadeUpKeyStore adds a type of key store to the table, as somebody would
// who writes one, and has the service that server.conf describes take in a key
// and release it.
func TestMadeUpKeyStore(t *testing.T) {
	t.Parallel()
	alice := keyservertest.NewSigner(t)
	pub, verifier, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := keyServiceDir(t, alice.PublicKey(), pub, "\n[key-store]\ntype = made-up\ndirectory = "+dir+"\n")
	types := maps.Clone(keyStores)
	types["made-up"] = madeup.Open

	c, err := config.LoadServer(conf)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newKeyService(t.Context(), c, types, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(filepath.Dir(conf), "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	site := &keyservertest.Service{URL: "https://" + listenFor(t, s), CA: ca, ID: s.ID(), StatementKey: s.StatementKey(),
		Cluster: "c", VerifierKey: verifier}
	v := site.Deposit(t, alice, "data", manifest.KindDataset, func() manifest.Policy {
		p := keyservertest.Policy("alice")
		p.Clusters = []string{"c"}
		return p
	}())
	m, b := site.Manifest(t, nil, v)
	got, err := site.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{
		Manifest: m, Digest: site.Register(t, alice, b), Job: manifest.Job{Cluster: "c", ID: 7, ArrayTask: -1}, Node: "cn1",
		Attest: site.Attest("alice", 1000, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Keys) != 1 || !bytes.Equal(got.Keys[v.ID].Key, v.Key) {
		t.Errorf("released: %d keys, or another one", len(got.Keys))
	}
	if kept, err := os.ReadFile(filepath.Join(dir, v.ID)); err != nil || !bytes.Equal(kept, v.Key) {
		t.Errorf("the made-up store does not hold the key: %v", err)
	}
	slots, err := keyStores["slots"](t.Context(), s.records.Home(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer slots.Close()
	if _, err := slots.Key(t.Context(), v.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("control: the key lies in the file of slots, too: %v", err)
	}
}

// listenFor runs a service until the test ends and returns its address.
func listenFor(t *testing.T, s *keyService) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, s.closeStores()); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestKeyStoreConfiguration has server.conf ask for what there is not.
func TestKeyStoreConfiguration(t *testing.T) {
	t.Parallel()
	alice := keyservertest.NewSigner(t)
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ lines, want string }{
		"control":             {"type = slots", ""},
		"unknown type":        {"type = vault", `type "vault" is none of slots`},
		"unknown parameter":   {"directory = /x", `unknown parameter "directory"`},
		"nothing is the same": {"", ""},
	} {
		c, err := config.LoadServer(keyServiceDir(t, alice.PublicKey(), pub, "\n[key-store]\n"+tc.lines+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := newKeyService(t.Context(), c, keyStores, slog.New(slog.DiscardHandler))
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if err := errors.Join(s.Close(), s.closeStores()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if fault.ClassOf(err) != fault.Config || !bytes.Contains([]byte(err.Error()), []byte(tc.want)) {
			t.Errorf("%s: %v (%s), want ...%s", name, err, fault.ClassOf(err), tc.want)
		}
	}
}
