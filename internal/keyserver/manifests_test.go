package keyserver_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func TestManifestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	stranger := keyservertest.NewSigner(t)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	unknown := keyservertest.NewVolume(t, "none", manifest.KindDataset, keyservertest.Policy("alice"))
	altered := v
	altered.Digest = manifest.DigestOf(nil)
	for _, tc := range []struct {
		name   string
		change func(*manifest.Manifest)
		volume keyservertest.Volume
		signer ssh.Signer
		ns     string
		spoil  func([]byte) []byte
		want   error
	}{
		{name: "control", volume: v},
		{name: "unknown volume", volume: unknown, want: keyclient.ErrNotFound},
		{name: "other digest", volume: altered, want: keyclient.ErrPolicy},
		{name: "other service", change: func(m *manifest.Manifest) { m.Service.ID = "other" }, volume: v, want: keyclient.ErrBadRequest},
		{name: "other statement key", change: func(m *manifest.Manifest) { m.Service.StatementKey = "AAAA" }, volume: v,
			want: keyclient.ErrBadRequest},
		{name: "expired", change: func(m *manifest.Manifest) {
			m.Created, m.Expires = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}, volume: v, want: keyclient.ErrBadRequest},
		{name: "good for too long", change: func(m *manifest.Manifest) { m.Expires = time.Now().Add(31 * 24 * time.Hour) },
			volume: v, want: keyclient.ErrBadRequest},
		{name: "signed by a stranger", signer: stranger, volume: v, want: keyclient.ErrForbidden},
		{name: "signed by another account", signer: s.bob, volume: v, want: keyclient.ErrForbidden},
		{name: "signed for another purpose", ns: keyapi.Namespace, volume: v, want: keyclient.ErrForbidden},
		{name: "altered after signing", spoil: func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"nodes": 1`), []byte(`"nodes": 9`), 1)
		}, volume: v, want: keyclient.ErrForbidden},
		{name: "no manifest", spoil: func([]byte) []byte { return []byte("{}") }, volume: v, want: keyclient.ErrBadRequest},
	} {
		_, b := s.Manifest(t, tc.change, tc.volume)
		signer, ns := tc.signer, tc.ns
		if signer == nil {
			signer = s.alice
		}
		if ns == "" {
			ns = manifest.NamespaceManifest
		}
		sig := keyservertest.Sign(t, signer, ns, b)
		if tc.spoil != nil {
			b = tc.spoil(b)
		}
		for range 2 { // the same again gives the same
			info, err := s.Client(t, s.alice).RegisterManifest(t.Context(), b, sig, keyservertest.PrivateOf(t, b))
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Errorf("%s: %+v, %v; want %v", tc.name, info, err, tc.want)
			}
		}
	}
}

// TestManifestOfAnother registers alice's signed manifest from bob's account.
func TestManifestOfAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	_, b := s.Manifest(t, nil, s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice")))
	s.Register(t, s.alice, b)
	register := func(signer ssh.Signer) error {
		sig := keyservertest.Sign(t, signer, manifest.NamespaceManifest, b)
		_, err := s.Client(t, s.bob).RegisterManifest(t.Context(), b, sig, keyservertest.PrivateOf(t, b))
		return err
	}
	if err := register(s.alice); !errors.Is(err, keyclient.ErrForbidden) {
		t.Errorf("with alice's signature: %v", err)
	}
	if err := register(s.bob); !errors.Is(err, keyclient.ErrConflict) {
		t.Errorf("with bob's: %v", err)
	}
}
