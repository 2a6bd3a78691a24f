package keyserver_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestPolicyChangedMeanwhile: of two who change the policy that both have seen, the
// second is told; the answer that was lost is asked for again without that.
func TestPolicyChangedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	alice := s.Client(t, s.alice)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	seen, err := alice.GetSecret(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, digest, err := seen.Policy.Encode(); err != nil || digest != seen.PolicyDigest {
		t.Errorf("policy digest %s, want %s, %v", seen.PolicyDigest, digest, err)
	}
	first, second := keyservertest.Policy("bob"), keyservertest.Policy("alice")
	second.Releases = 1
	for range 2 { // the answer to the first was lost
		if _, err := alice.ReplacePolicy(t.Context(), v.ID, seen.PolicyDigest, first); err != nil {
			t.Fatal(err)
		}
	}
	_, err = alice.ReplacePolicy(t.Context(), v.ID, seen.PolicyDigest, second)
	if !errors.Is(err, keyclient.ErrChanged) || !strings.Contains(err.Error(), "was changed meanwhile") {
		t.Errorf("a change of what is not there any more: %v", err)
	}
	now, err := alice.GetSecret(t.Context(), v.ID)
	if err != nil || !slices.Equal(now.Policy.Users, []string{"bob"}) || now.Policy.Releases != 0 {
		t.Errorf("the first change is lost: %+v, %v", now.Policy, err)
	}
	if _, err := alice.ReplacePolicy(t.Context(), v.ID, now.PolicyDigest, second); err != nil {
		t.Errorf("a change of what is there: %v", err)
	}
	for _, query := range []string{"?if=", "?if=sha256:00", "?if=*", "?else=1", "?if=" + seen.PolicyDigest.String() + "&if=x", "?if=%zz"} {
		status, e := s.send(t, rawRequest{method: "PUT", path: "/v1/secrets/" + v.ID + "/policy" + query, namespace: keyapi.Namespace,
			service: s.ID, at: time.Now(), nonce: keyservertest.RandomHex(16), signer: s.alice, body: encodePolicy(t, first)})
		if status != http.StatusBadRequest {
			t.Errorf("query %s: status %d, %+v", query, status, e)
		}
	}
}

func encodePolicy(t *testing.T, p manifest.Policy) []byte {
	t.Helper()
	b, _, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPolicyOfRevoked: no policy is set for a key that is destroyed.
func TestPolicyOfRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	alice := s.Client(t, s.alice)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	if _, err := alice.Revoke(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	_, err := alice.SetPolicy(t.Context(), v.ID, keyservertest.Policy("bob"))
	if !errors.Is(err, keyclient.ErrPolicy) || !strings.Contains(err.Error(), "was revoked: its key is destroyed") {
		t.Errorf("a policy for a revoked volume: %v", err)
	}
	if info, err := alice.GetSecret(t.Context(), v.ID); err != nil || !slices.Equal(info.Policy.Users, []string{"alice"}) {
		t.Errorf("%+v, %v", info.Policy, err)
	}
}

// TestAccountKeys: an account is told its own keys, as they count, and nobody else's.
func TestAccountKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	old, other := keyservertest.NewSigner(t), keyservertest.NewSigner(t)
	s.writeAccounts(t, enrolment("alice", s.alice), enrolment("alice", old, `valid-before="20200131120000Z"`),
		enrolment("alice", other, `namespaces="sealbatch-info"`), enrolment("bob", s.bob))
	got, err := s.Client(t, s.alice).Account(t.Context())
	if err != nil || got.Name != "alice" || len(got.Keys) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, k := range got.Keys {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Key))
		if err != nil {
			t.Fatal(err)
		}
		want := keyapi.AccountKey{Key: k.Key}
		switch string(pub.Marshal()) {
		case string(old.PublicKey().Marshal()):
			want.ValidBefore = time.Date(2020, 1, 31, 12, 0, 0, 0, time.UTC)
		case string(other.PublicKey().Marshal()):
			want.Namespaces = []string{"sealbatch-info"}
		case string(s.alice.PublicKey().Marshal()):
		default:
			t.Errorf("somebody else's key: %s", k.Key)
		}
		if !k.ValidBefore.Equal(want.ValidBefore) || !k.ValidAfter.IsZero() || !slices.Equal(k.Namespaces, want.Namespaces) {
			t.Errorf("%+v, want %+v", k, want)
		}
	}
	if _, err := s.Client(t, old).Account(t.Context()); !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Errorf("a retired key asks: %v", err)
	}
}
