// Package keyservertest runs a real key service on loopback for the tests of
// other packages: with a store, an audit log and TLS of its own, accounts for
// given SSH keys, and a verifier whose signing key the test holds.
package keyservertest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/boltstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/slotstore"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/keyserver/voucher"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/setup"
)

// Options shape a service; the zero value is useful.
type Options struct {
	Accounts map[string]ssh.PublicKey // by name
	Cluster  string                   // default "testcluster"
	Tier     manifest.Tier            // of the verifier; default B2
	Limits   keyserver.Limits
	MinTier  manifest.Tier    // default C: tests use tokens
	Now      func() time.Time // the service's clock
	// VerifierURL and VerifierCA are what the service tells submitters.
	VerifierURL, VerifierCA string
	// Keys, if not nil, wraps the key store.
	Keys func(store.KeyStore) store.KeyStore
	// Attestors add to those of the product, by type of evidence.
	Attestors map[string]attest.New
}

// Service is a running key service.
type Service struct {
	URL          string
	CA           []byte // PEM
	ID           string
	StatementKey ed25519.PublicKey
	Cluster      string
	VerifierKey  ed25519.PrivateKey
	Layout       setup.KeyService
	Server       *keyserver.Server

	opts  Options
	mu    sync.Mutex
	store *boltstore.Store
	stop  func() error
	addr  string
}

// Start runs a service until the test ends.
func Start(t testing.TB, o Options) *Service {
	t.Helper()
	if o.Cluster == "" {
		o.Cluster = "testcluster"
	}
	o.MinTier = cmp.Or(o.MinTier, manifest.TierC)
	if o.Tier == 0 {
		o.Tier = manifest.TierB2
	}
	l, err := setup.NewKeyService(setup.KeyServiceOptions{Dir: filepath.Join(t.TempDir(), "keys"),
		Hosts: []string{"localhost", "127.0.0.1"}, Listen: "127.0.0.1:8443"})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(l.CA)
	if err != nil {
		t.Fatal(err)
	}
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{CA: ca, Cluster: o.Cluster, VerifierKey: priv, Layout: l, opts: o, addr: "127.0.0.1:0"}
	for name, key := range o.Accounts {
		s.Enrol(t, name, key)
	}
	s.Run(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// Enrol adds a line to the accounts' file, options (such as
// `namespaces="x"`) between name and key. A running service reloads it.
func (s *Service) Enrol(t testing.TB, name string, key ssh.PublicKey, options ...string) {
	t.Helper()
	line := name
	for _, o := range options {
		line += " " + o
	}
	f, err := os.OpenFile(s.Layout.AllowedSigners, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "%s %s", line, ssh.MarshalAuthorizedKey(key)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Server != nil {
		if err := s.Server.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TryRun starts the service on its files, on the same address as before.
func (s *Service) TryRun() error {
	k, err := boltstore.LoadMasterKey(s.Layout.MasterKey)
	if err != nil {
		return err
	}
	cert, err := s.Layout.Load()
	if err != nil {
		return err
	}
	st, err := boltstore.Open(s.Layout.Store, k)
	if err != nil {
		return err
	}
	keys, err := slotstore.Open(context.Background(), st.Home(nil), nil)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	nonceKey, err := st.Derive("nonces")
	if err != nil {
		return errors.Join(err, st.Close())
	}
	var given store.KeyStore = keys
	if s.opts.Keys != nil {
		given = s.opts.Keys(keys)
	}
	srv, err := keyserver.New(keyserver.Config{
		Store: st, Keys: given, AuditLog: s.Layout.Audit, AllowedSigners: s.Layout.AllowedSigners, Certificate: cert,
		Limits: s.opts.Limits, MinTier: s.opts.MinTier, Now: s.opts.Now,
		Attestors: s.attestors(), LocalDir: s.Layout.Data, NonceKey: nonceKey,
	})
	if err != nil {
		return errors.Join(err, keys.Close(), st.Close())
	}
	ln, err := listen(s.addr)
	if err != nil {
		return errors.Join(err, srv.Close(), keys.Close(), st.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr, s.URL = ln.Addr().String(), "https://"+ln.Addr().String()
	s.Server, s.store, s.ID, s.StatementKey = srv, st, srv.ID(), srv.StatementKey()
	s.stop = func() error {
		cancel()
		err := <-ended
		return errors.Join(err, keys.Close(), st.Close())
	}
	return nil
}

// attestors are those that the product has, and the options' own.
func (s *Service) attestors() map[string]attest.New {
	types := map[string]attest.New{keyapi.EvidenceToken: token.New, keyapi.EvidenceSlurm: voucher.New(voucher.Verifier{
		Cluster: keyapi.Cluster{Name: s.Cluster, VerifierURL: s.opts.VerifierURL, VerifierCA: s.opts.VerifierCA,
			MungeUser: "sealbatch", Tier: s.opts.Tier},
		Key: s.VerifierKey.Public().(ed25519.PublicKey),
	})}
	maps.Copy(types, s.opts.Attestors)
	return types
}

// listen waits for the address of an earlier run: meanwhile some connection of
// another test's may have been given its port.
func listen(addr string) (ln net.Listener, err error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ln, err = net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return ln, err
		}
	}
}

// Run is TryRun that must succeed.
func (s *Service) Run(t testing.TB) {
	t.Helper()
	if err := s.TryRun(); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the service; Run brings it back. Stopping twice is no error.
func (s *Service) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop == nil {
		return
	}
	if err := stop(); err != nil {
		t.Errorf("stop the key service: %v", err)
	}
}

// Client returns a client that is pinned to the service; signer may be nil.
func (s *Service) Client(t testing.TB, signer ssh.Signer) *keyclient.Client {
	t.Helper()
	c, err := keyclient.New(keyclient.Options{URL: s.URL, CA: s.CA, Signer: signer, ServiceID: s.ID, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Voucher returns what an honest verifier would say of a claim by a user.
func (s *Service) Voucher(service string, c keyapi.Claim, user string, uid int64, groups ...string) keyapi.Voucher {
	d := keyapi.ClaimDigest(service, c)
	now := time.Now
	if s.opts.Now != nil {
		now = s.opts.Now
	}
	return keyapi.Voucher{
		Service: service, Claim: d[:], UID: uid, User: user, Groups: groups, Node: c.Node,
		Job: c.Job, Account: "project_1", Partition: "normal", Issued: now().UTC(),
	}
}

// Attest plays the verifier for a user; change, if not nil, may alter what it says.
func (s *Service) Attest(user string, uid int64, groups []string, change func(*keyapi.Voucher)) keyclient.AttestFunc {
	return func(_ context.Context, service string, c keyapi.Claim) (keyapi.Evidence, error) {
		v := s.Voucher(service, c, user, uid, groups...)
		if change != nil {
			change(&v)
		}
		jws, err := manifest.SignJWS(manifest.TypeVoucher, s.VerifierKey, v)
		if err != nil {
			return keyapi.Evidence{}, err
		}
		return keyapi.NewEvidence(keyapi.EvidenceSlurm, keyapi.SlurmPayload{Voucher: jws})
	}
}
