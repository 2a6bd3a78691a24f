package keyserver_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence/token"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestReleasesAreBounded: at tier C the start of a job is its submitter's word, so
// that an account can have keys released to it again and again. Each is on record
// for a month, of which the account may have so many, and no more are released
// meanwhile; other accounts have their own.
func TestReleasesAreBounded(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now, Limits: keyserver.Limits{Releases: 3}})
	p := keyservertest.Policy("alice")
	p.Users, p.Expires = append(p.Users, "bob"), p.Expires.Add(100*24*time.Hour)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	life := func(m *manifest.Manifest) { m.Expires = c.now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second) }
	submit := func(change func(*manifest.Manifest)) func(restart uint32) error {
		m, b := s.Manifest(t, change, v)
		digest := s.Register(t, s.alice, b)
		return func(restart uint32) error {
			tok, err := s.Client(t, s.alice).NewToken(t.Context(), digest, "")
			if err != nil {
				t.Fatal(err)
			}
			job := s.job(7)
			job.Restart = restart
			_, err = s.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{Manifest: m, Digest: digest, Job: job, Node: "cn1",
				Attest: token.Attest(tok.Token)})
			return err
		}
	}
	claim := submit(life)
	for i := range uint32(3) {
		if err := claim(i); err != nil {
			t.Fatal(err)
		}
	}
	full := func(when string, err error) {
		t.Helper()
		if !errors.Is(err, keyclient.ErrBadRequest) || !strings.Contains(err.Error(), "has 3 released keys") ||
			!strings.Contains(err.Error(), "[limits] releases-per-account") {
			t.Errorf("%s: %v", when, err)
		}
	}
	full("one too many", claim(3))
	m, b := s.Manifest(t, func(m *manifest.Manifest) { m.User = "bob" }, v)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.bob, b), Job: s.job(8), Node: "cn1",
		Attest: s.Attest("bob", 1001, nil, nil)}
	if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
		t.Errorf("another account: %v", err)
	}
	s.purgeIn(t, c, 29*24*time.Hour)
	full("while the manifest can be used", claim(4))
	s.purgeIn(t, c, 32*24*time.Hour)
	if got, err := keyserver.Records(t.Context(), s.Server); err != nil || got["releases"] != 0 {
		t.Errorf("%d releases are on record, %v", got["releases"], err)
	}
	if err := submit(life)(0); err != nil {
		t.Errorf("a month later: %v", err)
	}
}

// purgeIn purges as of a later time.
func (s *site) purgeIn(t *testing.T, c *clock, d time.Duration) {
	t.Helper()
	c.add(d)
	s.purge(t)
	c.add(-d)
}

// TestEarlierStart: keys go to the newest start of a job that asked.
func TestEarlierStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	m, b := s.Manifest(t, twoNodes, s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice")))
	digest := s.Register(t, s.alice, b)
	for _, step := range []struct {
		restart uint32
		node    string
		want    error
	}{
		{0, "cn1", nil}, {2, "cn1", nil}, {2, "cn2", nil}, {2, "cn3", keyclient.ErrConflict}, {0, "cn2", keyclient.ErrConflict},
		{1, "cn2", keyclient.ErrConflict}, {3, "cn2", nil},
	} {
		job := s.job(7)
		job.Restart = step.restart
		_, err := s.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{Manifest: m, Digest: digest, Job: job, Node: step.node,
			Attest: s.Attest("alice", 1000, nil, nil)})
		if !errors.Is(err, step.want) || (step.want == nil) != (err == nil) {
			t.Errorf("start %d on %s: %v, want %v", step.restart, step.node, err, step.want)
		}
	}
}

// TestJobBytes: what the jobs of an account take in the store is bounded in bytes,
// too, and counts no more when it is gone.
func TestJobBytes(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now, Limits: keyserver.Limits{JobBytes: 300_000}})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	register := func() error {
		_, b := s.Manifest(t, func(m *manifest.Manifest) {
			m.Private = keyservertest.Private(t, []string{strings.Repeat("x", 100_000)}, nil)
			m.Created = c.now().UTC().Truncate(time.Second)
			m.Expires = m.Created.Add(time.Hour)
		}, v)
		_, err := s.Client(t, s.alice).RegisterManifest(t.Context(), b,
			keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b), keyservertest.PrivateOf(t, b))
		return err
	}
	fill := func(want int) {
		t.Helper()
		n := 0
		err := register()
		for ; err == nil; err = register() {
			n++
		}
		if n != want || !errors.Is(err, keyclient.ErrBadRequest) || !strings.Contains(err.Error(), "[limits] job-bytes-per-account") {
			t.Errorf("%d jobs, want %d: %v", n, want, err)
		}
	}
	fill(2)
	s.purgeIn(t, c, 2*time.Hour) // the private parts go first
	fill(2)
}
