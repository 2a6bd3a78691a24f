package keyserver_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"io"
	"os"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// site is a service with alice (owner and submitter) and bob.
type site struct {
	*keyservertest.Service
	alice, bob ssh.Signer
}

func newSite(t *testing.T, o keyservertest.Options) *site {
	t.Helper()
	s := &site{alice: keyservertest.NewSigner(t), bob: keyservertest.NewSigner(t)}
	o.Accounts = map[string]ssh.PublicKey{"alice": s.alice.PublicKey(), "bob": s.bob.PublicKey()}
	s.Service = keyservertest.Start(t, o)
	return s
}

func (s *site) job(id uint32) manifest.Job {
	return manifest.Job{Cluster: s.Cluster, ID: id, ArrayTask: -1}
}

// TestReleaseByToken is the whole path at tier C: deposit, register, token, release.
func TestReleaseByToken(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	image := s.Deposit(t, s.alice, "image", manifest.KindImage, keyservertest.Policy("alice"))
	data := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	m, b := s.Manifest(t, nil, image, data)
	digest := s.Register(t, s.alice, b)
	tok, err := s.Client(t, s.alice).NewToken(t.Context(), digest, "cn1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{
		Manifest: m, Digest: digest, Job: s.job(7), Node: "cn1", Attest: token.Attest(tok.Token)})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Keys) != 2 || !bytes.Equal(got.Keys[image.ID].Key, image.Key) || !bytes.Equal(got.Keys[data.ID].Key, data.Key) {
		t.Errorf("released keys are not those that were deposited")
	}
	st := got.Statement
	if st.Tier != manifest.TierC || st.User != "alice" || st.UID != -1 || st.Node != "cn1" || st.Job != s.job(7) || st.Manifest != digest ||
		st.S != manifest.EncodeKey(got.S.Public().(ed25519.PublicKey)) {
		t.Errorf("statement says %+v", st)
	}
	info, err := s.Client(t, s.alice).GetSecret(t.Context(), data.ID)
	if err != nil || info.Released != 1 {
		t.Errorf("secret shows %d releases, %v; want 1", info.Released, err)
	}
	head, err := audit.ParseHead(s.StatementKey, got.AuditHead)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"a key": base64.StdEncoding.EncodeToString(data.Key), "a key in hex": hex.EncodeToString(data.Key), "the token": tok.Token,
	} {
		if bytes.Contains(log, []byte(secret)) {
			t.Errorf("the audit log holds %s", what)
		}
	}
	if row, err := audit.Verify(s.StatementKey, []io.Reader{bytes.NewReader(log)}, head); err != nil || row.Head.Seq < head.Seq {
		t.Errorf("audit log: %d entries, %v", row.Entries, err)
	}
}
