package main

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestPolicyChangedBehind: who changes a policy that somebody else has changed since it
// was read is told, and loses nothing of either.
func TestPolicyChangedBehind(t *testing.T) {
	t.Parallel()
	signer := keyservertest.NewSigner(t)
	service := keyservertest.Start(t, keyservertest.Options{Accounts: map[string]ssh.PublicKey{"alice": signer.PublicKey()}})
	v := service.Deposit(t, signer, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	var said bytes.Buffer
	c := &client{a: &app{stdout: &said, stderr: &said}, conf: &config.Client{}, signer: signer, keys: service.Client(t, signer)}
	seen, err := c.findSecret(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	limit := policyOptions{policyFlags: policyFlags{Releases: 3}, named: []string{"releases"}}
	if _, err := c.setPolicy(t.Context(), seen, limit); err != nil || said.String() != "releases: no limit -> 3\n" {
		t.Fatalf("%q, %v", &said, err)
	}
	more := policyOptions{policyFlags: policyFlags{Users: []string{"bob"}}, named: []string{"users"}}
	if _, err := c.addToPolicy(t.Context(), seen, more); !errors.Is(err, keyclient.ErrChanged) {
		t.Errorf("behind another's back: %v", err)
	}
	if seen, err = c.findSecret(t.Context(), "data"); err != nil || seen.Policy.Releases != 3 || len(seen.Policy.Users) != 1 {
		t.Fatalf("the first change is lost: %+v, %v", seen.Policy, err)
	}
	got, err := c.addToPolicy(t.Context(), seen, more)
	if err != nil || got.Policy.Releases != 3 || !slices.Equal(got.Policy.Users, []string{"alice", "bob"}) {
		t.Errorf("%+v, %v", got.Policy, err)
	}
}
