package keyserver_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// waitFor returns in short which jobs wait for a volume's key, as its owner sees them.
func waitFor(t *testing.T, s *site, volume string) (out []string) {
	t.Helper()
	all, err := s.Client(t, s.alice).SecretJobs(t.Context(), volume)
	if err != nil || all.More != 0 || all.Uncounted {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, j := range all.Jobs {
		if !j.Expires.After(j.Registered) {
			t.Errorf("%+v", j)
		}
		job := ""
		if j.Job != nil {
			job = fmt.Sprint(j.Job.ID)
		}
		out = append(out, fmt.Sprintf("%s %s %d %s %t", j.Account, j.User, j.Nodes, job, j.Manifest != ""))
	}
	slices.Sort(out)
	return out
}

// TestSecretJobs: a volume's owner sees the jobs of everybody that may still ask for its
// key and would get it, until all their nodes have it, or they can be presented no more.
func TestSecretJobs(t *testing.T) {
	t.Parallel()
	clk := &clock{}
	s := newSite(t, keyservertest.Options{Now: clk.now})
	p := keyservertest.Policy("alice")
	p.Users = []string{"alice", "bob"}
	image := s.Deposit(t, s.bob, "image", manifest.KindImage, p)
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	want := func(when string, jobs ...string) {
		t.Helper()
		if got := waitFor(t, s, v.ID); !slices.Equal(got, jobs) {
			t.Errorf("%s: %q, want %q", when, got, jobs)
		}
	}
	want("nobody has registered one")
	of := func(user string, nodes int, volumes ...keyservertest.Volume) (manifest.Manifest, []byte) {
		return s.Manifest(t, func(m *manifest.Manifest) {
			m.User, m.Nodes, m.Expires = user, nodes, m.Created.Add(90*time.Second)
		}, volumes...)
	}
	m, b := of("bob", 2, image, v)
	digest := s.Register(t, s.bob, b)
	_, b = of("alice", 1, image, v, v)
	s.Register(t, s.alice, b)
	for _, other := range [][]keyservertest.Volume{{image}, {image, s.Deposit(t, s.alice, "other", manifest.KindDataset, p)}} {
		_, b = of("bob", 1, other...)
		s.Register(t, s.bob, b)
	}
	_, b = of("mallory", 1, image, v) // whom the policy does not name
	s.Register(t, s.bob, b)
	want("registered", "alice alice 1  true", "bob bob 2  false")

	for i, node := range []string{"cn1", "cn2"} {
		r := keyclient.ReleaseRequest{Manifest: m, Digest: digest, Job: s.job(7), Node: node, Attest: s.Attest("bob", 1001, nil, nil)}
		if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			want("half of it has begun", "alice alice 1  true", "bob bob 2 7 false")
		}
	}
	want("it has begun", "alice alice 1  true")
	s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
	want("superseded: pinning would help", "alice alice 1  true")

	if _, err := s.Client(t, s.bob).SecretJobs(t.Context(), v.ID); !errors.Is(err, keyclient.ErrNotFound) {
		t.Errorf("bob: %v", err)
	}
	narrow := p
	narrow.Users = []string{"bob"}
	if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, narrow); err != nil {
		t.Fatal(err)
	}
	want("no longer named")
	if _, err := s.Client(t, s.alice).SetPolicy(t.Context(), v.ID, p); err != nil {
		t.Fatal(err)
	}
	want("named again", "alice alice 1  true")
	clk.add(91 * time.Second)
	want("expired")
	log, err := os.ReadFile(s.Layout.Audit)
	if err != nil || strings.Count(string(log), `"event":"secret.jobs"`) != 9 {
		t.Errorf("in the audit log: %d, %v", strings.Count(string(log), `"event":"secret.jobs"`), err)
	}
}

// TestSecretJobsAreBounded: whoever registers thousands of jobs costs an owner who asks no
// more than a bounded look, and the answer says that it is not all.
func TestSecretJobsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	_, b := s.Manifest(t, nil, v)
	digest := s.Register(t, s.bob, b)
	for _, c := range []struct {
		planted, more int
		uncounted     bool
	}{{keyapi.MaxSecretJobs + 2, 3, false}, {3000, 1900, true}} {
		if err := keyserver.PlantJobs(s.Server, digest, c.planted); err != nil {
			t.Fatal(err)
		}
		got, err := s.Client(t, s.alice).SecretJobs(t.Context(), v.ID)
		if err != nil || len(got.Jobs) != keyapi.MaxSecretJobs || got.More != c.more || got.Uncounted != c.uncounted {
			t.Errorf("%d: %d jobs, %d more, %t, %v", c.planted, len(got.Jobs), got.More, got.Uncounted, err)
		}
	}
}
