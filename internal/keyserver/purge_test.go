package keyserver_test

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestPurge lets a service run for more than a year: what can no longer change
// a decision goes, what limits releases stays.
func TestPurge(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now})
	p := keyservertest.Policy("alice")
	p.Releases, p.Expires = 1, p.Expires.Add(1000*24*time.Hour)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	m, b := s.Manifest(t, nil, v)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1",
		Attest: s.Attest("alice", 1000, nil, nil)}
	if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client(t, s.alice).NewToken(t.Context(), r.Digest, ""); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, step := range []struct {
		after time.Duration
		want  map[string]int
	}{
		{0, map[string]int{"secrets": 1, "manifests": 1, "private": 1, "waiting": 1, "jobs": 1, "releases": 1, "repeats": 1, "tokens": 1, "used-nonces": 1}},
		{keyapi.RepeatTTL + time.Second, map[string]int{"secrets": 1, "manifests": 1, "private": 1, "waiting": 1, "jobs": 1, "releases": 1, "tokens": 1}},
		{time.Hour + time.Second, map[string]int{"secrets": 1, "manifests": 1, "private": 1, "waiting": 1, "jobs": 1, "releases": 1}},
		{time.Hour + keyapi.RepeatTTL + time.Second, map[string]int{"secrets": 1, "manifests": 1, "jobs": 1, "releases": 1}},
		{30*day + 2*time.Hour, map[string]int{"secrets": 1, "releases": 1}},
		{366 * day, map[string]int{"secrets": 1}},
	} {
		c.offset.Store(int64(step.after))
		step.want["history"] = 2 // of the volume, as long as it is there
		if _, err := keyserver.Purge(t.Context(), s.Server); err != nil {
			t.Fatal(err)
		}
		if got, err := keyserver.Records(t.Context(), s.Server); err != nil || !maps.Equal(got, step.want) {
			t.Errorf("after %s: %v, %v; want %v", step.after, got, err, step.want)
		}
		if n, err := keyserver.Purge(t.Context(), s.Server); err != nil || n != 0 {
			t.Errorf("after %s: %d more records are outdated, %v", step.after, n, err)
		}
	}
	// The count of releases outlives them all.
	c.offset.Store(0)
	m, b = s.Manifest(t, nil, v)
	r.Manifest, r.Digest, r.Job = m, s.Register(t, s.alice, b), s.job(8)
	if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrPolicy) {
		t.Errorf("a second release of one: %v", err)
	}
}

// TestPurgeAtTheStart stops a service with outdated records and starts it.
func TestPurgeAtTheStart(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now})
	_, b := s.Manifest(t, nil, s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice")))
	digest := s.Register(t, s.alice, b)
	for range 3 {
		if _, err := s.Client(t, s.alice).NewToken(t.Context(), digest, ""); err != nil {
			t.Fatal(err)
		}
	}
	c.add(2 * time.Hour)
	s.Stop(t)
	s.Run(t)
	if got, err := keyserver.Records(t.Context(), s.Server); err != nil || got["tokens"] != 0 || got["manifests"] != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
