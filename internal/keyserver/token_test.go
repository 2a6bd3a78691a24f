package keyserver_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestTokenRefused is tier C: what a token is not good for.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now})
	p := keyservertest.Policy("alice")
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	register := func(change func(*manifest.Manifest), v keyservertest.Volume) keyclient.ReleaseRequest {
		m, b := s.Manifest(t, change, v)
		return keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1"}
	}
	newToken := func(r keyclient.ReleaseRequest, node string) keyclient.AttestFunc {
		tok, err := s.Client(t, s.alice).NewToken(t.Context(), r.Digest, node)
		if err != nil {
			t.Fatal(err)
		}
		return token.Attest(tok.Token)
	}
	try := func(name string, r keyclient.ReleaseRequest, a keyclient.AttestFunc, want error) {
		t.Helper()
		r.Attest = a
		if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
	r := register(twoNodes, v)
	other := register(nil, v)
	try("token of another manifest", r, newToken(other, ""), keyclient.ErrAttestation)
	try("token for another node", r, newToken(r, "cn2"), keyclient.ErrAttestation)
	try("no token", r, token.Attest(strings.Repeat("A", 43)), keyclient.ErrAttestation)
	used := newToken(r, "")
	try("control", r, used, nil)
	onNode2 := r
	onNode2.Node = "cn2"
	try("used token", onNode2, used, keyclient.ErrAttestation)
	try("another token", onNode2, newToken(r, ""), nil)

	accounts := p
	accounts.Accounts = []string{"project_1"}
	bound := register(nil, s.Deposit(t, s.alice, "bound", manifest.KindDataset, accounts))
	try("policy asks for a Slurm account, which a token does not show", bound, newToken(bound, ""), keyclient.ErrPolicy)
	stronger := register(func(m *manifest.Manifest) { m.Tier = manifest.TierB2 }, v)
	try("manifest demands B2", stronger, newToken(stronger, ""), keyclient.ErrPolicy)
	if _, err := s.Client(t, s.bob).NewToken(t.Context(), r.Digest, ""); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("bob makes a token for alice's manifest: %v", err)
	}
	late := newToken(other, "")
	c.add(2 * time.Hour)
	try("late", other, late, keyclient.ErrAttestation)
}
