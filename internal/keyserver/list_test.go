package keyserver_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// wide returns a policy of as many bytes as there may be, or so.
func wide(bytes int) manifest.Policy {
	p := keyservertest.Policy("alice")
	for i := range (bytes - 200) / 66 {
		p.Users = append(p.Users, fmt.Sprintf("u%062d", i))
	}
	return p
}

// TestPolicyIsBounded: what every release reads is small, whoever sets it.
func TestPolicyIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	alice := s.Client(t, s.alice)
	for size, ok := range map[int]bool{manifest.MaxPolicy: true, manifest.MaxPolicy + 300: false, 60_000: false, 500_000: false} {
		v := keyservertest.NewVolume(t, fmt.Sprint(size), manifest.KindDataset, wide(size))
		_, err := alice.PutSecret(t.Context(), v.ID, v.Secret)
		if ok != (err == nil) || !ok && !errors.Is(err, keyclient.ErrBadRequest) {
			t.Errorf("deposit with a policy of %d bytes: %v", size, err)
		}
		v = s.Deposit(t, s.alice, fmt.Sprint("small", size), manifest.KindDataset, keyservertest.Policy("alice"))
		_, err = alice.SetPolicy(t.Context(), v.ID, wide(size))
		if ok != (err == nil) || !ok && !errors.Is(err, keyclient.ErrBadRequest) {
			t.Errorf("policy of %d bytes: %v", size, err)
		}
	}
}

// TestListPages reads a list in pages of all sizes.
func TestListPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	const many = 2*keyapi.MaxPage + 40
	if err := keyserver.PlantSecrets(s.Server, "alice", many); err != nil {
		t.Fatal(err)
	}
	s.Deposit(t, s.bob, "bob's", manifest.KindDataset, keyservertest.Policy("bob"))
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	for query, want := range map[string]struct{ first, size int }{
		"": {1, keyapi.MaxPage}, "?limit=3": {1, 3}, "?limit=1000000": {1, keyapi.MaxPage}, "?limit=2&after=" + id(10): {11, 2},
		"?after=" + id(many-40): {many - 39, 40}, "?after=" + id(many-1): {many, 1}, "?after=" + id(many): {}, "?after=" + id(many+9): {},
	} {
		status, page := s.page(t, query)
		if status != http.StatusOK || len(page.Secrets) != want.size || want.size > 0 && page.Secrets[0].Name != fmt.Sprint(want.first) {
			t.Errorf("%q: status %d, %d entries, want %+v", query, status, len(page.Secrets), want)
			continue
		}
		if last := want.size == 0 || want.first+want.size > many; last != (page.Next == "") ||
			!last && page.Next != page.Secrets[want.size-1].VolumeID {
			t.Errorf("%q: the next page is %q", query, page.Next)
		}
	}
	want := id(1)
	for _, query := range []string{"?limit=0", "?limit=-1", "?limit=x", "?limit=1&limit=2", "?after=x", "?after=" + want + "&after=" + want,
		"?after=../secrets/x", "?other=1", "?%zz", "?limit"} {
		if status, _ := s.page(t, query); status != http.StatusBadRequest {
			t.Errorf("%q: status %d", query, status)
		}
	}
}

// page asks for one page of alice's volumes.
func (s *site) page(t *testing.T, query string) (status int, page keyapi.SecretList) {
	t.Helper()
	status, b := s.raw(t, rawRequest{method: "GET", path: "/v1/secrets" + query, namespace: keyapi.Namespace, service: s.ID,
		at: time.Now(), nonce: keyservertest.RandomHex(16), signer: s.alice})
	if status == http.StatusOK {
		if err := manifest.DecodeJSON(b, &page); err != nil {
			t.Fatal(err)
		}
	}
	return status, page
}

// TestManyVolumes has an owner of many volumes list them, as many as fit no single answer,
// and be told before publishing that the account is known.
func TestManyVolumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	const many = 20_000
	if err := keyserver.PlantSecrets(s.Server, "alice", many); err != nil {
		t.Fatal(err)
	}
	alice := s.Client(t, s.alice)
	n := 0
	for e, err := range alice.Secrets(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; e.Name != fmt.Sprint(n) {
			t.Fatalf("entry %d is %+v", n, e)
		}
	}
	if n != many {
		t.Errorf("the list has %d volumes, not %d", n, many)
	}
	if err := alice.Enrolled(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNames: a volume is told of by the name that jobs mount it by, which may change until it is published; versions are
// those of one sealed file.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	c := s.Client(t, s.alice)
	v := keyservertest.NewVolume(t, "genomes.sealed", manifest.KindDataset, keyservertest.Policy("alice"))
	for _, name := range []string{"input", "genomes"} {
		v.Secret.Name, v.Secret.Key = name, slices.Clone(v.Key)
		if got, err := c.PutSecret(t.Context(), v.ID, v.Secret); err != nil || got.Name != name || got.File != "genomes.sealed" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	v.Secret.File, v.Secret.Key = "other.sealed", slices.Clone(v.Key)
	if _, err := c.PutSecret(t.Context(), v.ID, v.Secret); !errors.Is(err, keyclient.ErrConflict) {
		t.Errorf("another file: %v", err)
	}
	next := keyservertest.NewVolume(t, "genomes.sealed", manifest.KindDataset, keyservertest.Policy("alice"))
	next.Secret.Name = "renamed"
	if _, err := c.PutSecret(t.Context(), next.ID, next.Secret); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetSecret(t.Context(), v.ID)
	if err != nil || got.Name != "genomes" || got.SupersededBy != next.ID || got.Entry().Name != "genomes" || got.Entry().File != "genomes.sealed" {
		t.Errorf("%+v, %v", got, err)
	}
}
