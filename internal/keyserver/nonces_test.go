package keyserver_test

import (
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// usedNonces counts the nonces that are remembered.
func (s *site) usedNonces(t *testing.T, want int) {
	t.Helper()
	if got, err := keyserver.Records(t.Context(), s.Server); err != nil || got["used-nonces"] != want {
		t.Errorf("%d nonces are remembered, %v; want %d", got["used-nonces"], err, want)
	}
}

// TestNoncesCostNothing: of nonces that strangers ask for, and of claims without
// evidence, nothing stays.
func TestNoncesCostNothing(t *testing.T) {
	t.Parallel()
	c := newClaimed(t, &clock{}, nil)
	for range 200 {
		if _, err := c.Client(t, nil).Nonce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	genuine := c.release
	c.release.Evidence.Payload = []byte(`{"voucher":"e30.e30.e30"}`)
	if got := c.send(t); got != keyapi.CodeAttestation {
		t.Errorf("without evidence: %q", got)
	}
	c.usedNonces(t, 0)
	c.release = genuine
	if got := c.send(t); got != "" {
		t.Errorf("the nonce was used up by less than evidence: %q", got)
	}
	c.usedNonces(t, 1)
}

// TestUsedNonce: a nonce that evidence used up is good for nothing more, whatever
// became of the claim, in this run of the service and the next.
func TestUsedNonce(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]func(*manifest.Policy){
		"released": nil,
		"refused":  func(p *manifest.Policy) { p.Users = []string{"bob"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clk := &clock{}
			c := newClaimed(t, clk, policy)
			if got, want := c.send(t), map[bool]string{true: keyapi.CodePolicy}[policy != nil]; got != want {
				t.Fatalf("the claim: %q, want %q", got, want)
			}
			c.usedNonces(t, 1)
			c.Stop(t)
			c.Run(t)
			if _, err := c.Client(t, c.alice).SetPolicy(t.Context(), c.volume.ID, keyservertest.Policy("alice")); err != nil {
				t.Fatal(err)
			}
			c.release.Claim.E = newE(t)
			c.prove(t)
			if got := c.send(t); got != keyapi.CodeAttestation {
				t.Errorf("another claim with the nonce: %q", got)
			}
			c.wantAudited(t, `"outcome":"refused"`, "the nonce is used up")
			clk.add(keyapi.NonceTTL + keyapi.MaxSkew - 2*time.Second)
			c.purge(t)
			c.usedNonces(t, 1)
			clk.add(3 * time.Second)
			c.purge(t)
			c.usedNonces(t, 0)
		})
	}
}

func (s *site) purge(t *testing.T) {
	t.Helper()
	if _, err := keyserver.Purge(t.Context(), s.Server); err != nil {
		t.Fatal(err)
	}
}

// TestNonceAfterRestart: a node that has its nonce when the service is started
// again goes on.
func TestNonceAfterRestart(t *testing.T) {
	t.Parallel()
	c := newClaimed(t, &clock{}, nil)
	c.Stop(t)
	c.Run(t)
	if got := c.send(t); got != "" {
		t.Errorf("a nonce of the run before: %q", got)
	}
}
