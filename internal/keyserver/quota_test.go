package keyserver_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestQuotas lets an account fill its share of the store. Another account has
// its own, the same thing again counts once, and what is removed counts no more.
func TestQuotas(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now, Limits: keyserver.Limits{Secrets: 2, Manifests: 2, Tokens: 2}})
	full := func(err error, what, key string) {
		t.Helper()
		if !errors.Is(err, keyclient.ErrBadRequest) || !strings.Contains(err.Error(), "account alice has 2 "+what) ||
			!strings.Contains(err.Error(), "[limits] "+key) {
			t.Errorf("one too many: %v", err)
		}
	}
	alice := s.Client(t, s.alice)
	v := s.Deposit(t, s.alice, "one", manifest.KindDataset, keyservertest.Policy("alice"))
	s.Deposit(t, s.alice, "two", manifest.KindDataset, keyservertest.Policy("alice"))
	third := keyservertest.NewVolume(t, "three", manifest.KindDataset, keyservertest.Policy("alice"))
	_, err := alice.PutSecret(t.Context(), third.ID, third.Secret)
	full(err, "deposited volumes", "secrets-per-account")
	if _, err := alice.PutSecret(t.Context(), v.ID, v.Secret); err != nil {
		t.Errorf("the same deposit again: %v", err)
	}
	if _, err := s.Client(t, s.bob).PutSecret(t.Context(), third.ID, third.Secret); err != nil {
		t.Errorf("another account, the same volume: %v", err)
	}

	life := func(d time.Duration) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) {
			m.Tier, m.Expires = manifest.TierC, c.now().Add(d).UTC().Truncate(time.Second)
		}
	}
	_, first := s.Manifest(t, life(time.Hour), v)
	s.Register(t, s.alice, first)
	_, second := s.Manifest(t, life(24*time.Hour), v)
	digest := s.Register(t, s.alice, second)
	register := func(b []byte) error {
		_, err := alice.RegisterManifest(t.Context(), b, keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b),
			keyservertest.PrivateOf(t, b))
		return err
	}
	_, b := s.Manifest(t, life(24*time.Hour), v)
	full(register(b), "registered jobs", "manifests-per-account")
	if err := register(second); err != nil {
		t.Errorf("the same manifest again: %v", err)
	}

	token := func() error { _, err := alice.NewToken(t.Context(), digest, ""); return err }
	if err := errors.Join(token(), token()); err != nil {
		t.Fatal(err)
	}
	full(token(), "tokens", "tokens-per-account")

	// The first manifest goes a month after its hour, the second a day later.
	const month = 30*24*time.Hour + 2*time.Hour
	c.add(month)
	if _, err := keyserver.Purge(t.Context(), s.Server); err != nil {
		t.Fatal(err)
	}
	c.add(-month)
	_, b = s.Manifest(t, life(24*time.Hour), v)
	digest = s.Register(t, s.alice, b)
	_, b = s.Manifest(t, life(25*time.Hour), v)
	full(register(b), "registered jobs", "manifests-per-account")
	if err := errors.Join(token(), token()); err != nil {
		t.Errorf("once the tokens are gone: %v", err)
	}
	full(token(), "tokens", "tokens-per-account")
}
