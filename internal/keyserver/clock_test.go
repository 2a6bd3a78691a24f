package keyserver_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestClocks sets one clock an hour wrong, in either direction: what depends
// on it is refused with words that say which clock, and the rest works.
func TestClocks(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead of": time.Hour + 30*time.Second, "behind": -time.Hour - 30*time.Second} {
		t.Run("verifier "+name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, keyservertest.Options{})
			r := s.clockRequest(t)
			r.Attest = s.Attest("alice", 1000, nil, func(v *keyapi.Voucher) { v.Issued = v.Issued.Add(off) })
			_, err := s.Client(t, nil).Release(t.Context(), r)
			wantClock(t, err, keyclient.ErrAttestation, "the verifier's clock, which is 1h0m", name+" the key service's")
			r.Attest = s.Attest("alice", 1000, nil, nil)
			if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
				t.Errorf("once its clock was set: %v", err)
			}
		})
		// The service's clock is wrong against the laptop's (here) and the verifier's.
		t.Run("laptop "+name, func(t *testing.T) {
			t.Parallel()
			c := &clock{}
			s := newSite(t, keyservertest.Options{Now: c.now})
			r := s.clockRequest(t)
			c.add(-off)
			err := s.Client(t, s.alice).Enrolled(t.Context())
			words := []string{"this machine's clock is 1h0m", name + " the key service's", "set the clock"}
			wantClock(t, err, keyclient.ErrUnauthorised, words...)
			// A node signs no requests: its job runs on.
			if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
				t.Errorf("a node whose verifier agrees with the service: %v", err)
			}
		})
	}
}

func (s *site) clockRequest(t *testing.T) keyclient.ReleaseRequest {
	t.Helper()
	p := keyservertest.Policy("alice")
	p.Expires = p.Expires.Add(3 * time.Hour)
	m, b := s.Manifest(t, func(m *manifest.Manifest) { m.Expires = m.Expires.Add(3 * time.Hour) },
		s.Deposit(t, s.alice, "data", manifest.KindDataset, p))
	return keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1",
		Attest: s.Attest("alice", 1000, nil, nil)}
}

func wantClock(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%v; want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\ndoes not say %q", err, w)
		}
	}
}

// TestDayInTheQueue lets a job wait: its keys come a day later, and once its
// manifest has expired the refusal says so and what to do.
func TestDayInTheQueue(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now})
	p := keyservertest.Policy("alice")
	p.Expires = p.Expires.Add(100 * 24 * time.Hour)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	request := func() keyclient.ReleaseRequest {
		m, b := s.Manifest(t, func(m *manifest.Manifest) { m.Expires = m.Created.Add(7 * 24 * time.Hour) }, v)
		return keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1",
			Attest: s.Attest("alice", 1000, nil, nil)}
	}
	early, late := request(), request()
	late.Job.ID = 8
	c.add(25 * time.Hour)
	if _, err := s.Client(t, nil).Release(t.Context(), early); err != nil {
		t.Errorf("after a day: %v", err)
	}
	c.add(6 * 24 * time.Hour)
	_, err := s.Client(t, nil).Release(t.Context(), late)
	wantClock(t, err, keyclient.ErrPolicy, "the manifest expired at", "submit the job again")
}

// TestSignedBeforeTheStart repeats a request that was signed in the second
// before the service was started: it is signed anew.
func TestSignedBeforeTheStart(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSite(t, keyservertest.Options{Now: c.now})
	s.Stop(t)
	c.add(1500 * time.Millisecond) // started "in the future": requests of now are too old
	s.Run(t)
	if err := s.Client(t, s.alice).Enrolled(t.Context()); !errors.Is(err, keyclient.ErrUnauthorised) {
		t.Fatalf("control, without retries: %v", err)
	}
	again, err := keyclient.New(keyclient.Options{URL: s.URL, CA: s.CA, ServiceID: s.ID, Signer: s.alice, Retries: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Enrolled(t.Context()); err != nil {
		t.Error(err)
	}
}
