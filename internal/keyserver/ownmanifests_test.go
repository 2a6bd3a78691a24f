package keyserver_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// bind registers a manifest and has the key released to a job's node cn1.
func (s *site) bind(t *testing.T, v keyservertest.Volume, job manifest.Job) (manifest.Manifest, manifest.Digest) {
	t.Helper()
	m, b := s.Manifest(t, func(m *manifest.Manifest) { m.Nodes = 2 }, v)
	digest := s.Register(t, s.alice, b)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: digest, Job: job, Node: "cn1", Attest: s.Attest("alice", 1000, nil, nil)}
	if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return m, digest
}

// TestOwnManifests: an account finds its jobs' directories again by the job's number, and what became of a
// manifest by its digest; of others' it learns nothing.
func TestOwnManifests(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	alice, bob := s.Client(t, s.alice), s.Client(t, s.bob)
	waiting, b := s.Manifest(t, nil, v)
	unbound := s.Register(t, s.alice, b)
	m, digest := s.bind(t, v, s.job(7))
	again := s.Deposit(t, s.alice, "again", manifest.KindDataset, keyservertest.Policy("alice"))
	_, second := s.bind(t, again, s.job(7)) // Slurm begins its numbers anew some day
	s.bind(t, v, s.job(77))

	got, err := alice.Manifest(t.Context(), digest)
	want := manifest.Job{Cluster: s.job(7).Cluster, ID: 7, ArrayTask: -1}
	if err != nil || got.Run != m.Run || got.JobDir != m.JobDir || got.Job == nil || *got.Job != want || got.Nodes != 2 ||
		got.Served != 1 || got.Starts != 1 || !got.Expires.Equal(m.Expires) || got.Registered.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := alice.Manifest(t.Context(), unbound); err != nil || got.Job != nil || got.JobDir != waiting.JobDir {
		t.Errorf("one that no job has presented: %+v, %v", got, err)
	}
	for cluster, n := range map[string]int{"": 2, want.Cluster: 2, "other": 0} {
		list, err := alice.ManifestsOf(t.Context(), 7, cluster)
		if err != nil || len(list.Manifests) != n || list.More {
			t.Errorf("cluster %q: %+v, %v", cluster, list, err)
		}
		for _, e := range list.Manifests {
			if e.Digest != digest && e.Digest != second {
				t.Errorf("cluster %q: %+v", cluster, e)
			}
		}
	}
	if list, err := bob.ManifestsOf(t.Context(), 7, ""); err != nil || len(list.Manifests) != 0 {
		t.Errorf("bob: %+v, %v", list, err)
	}
	_, others := bob.Manifest(t.Context(), digest)
	_, none := bob.Manifest(t.Context(), manifest.DigestOf(nil))
	if !errors.Is(others, keyclient.ErrNotFound) || !errors.Is(none, keyclient.ErrNotFound) ||
		strings.ReplaceAll(others.Error(), digest.String(), manifest.DigestOf(nil).String()) != none.Error() {
		t.Errorf("bob: %v; of none: %v", others, none)
	}
	log, err := os.ReadFile(s.Layout.Audit)
	for event, n := range map[string]int{"manifest.list": 4, "manifest.get": 4} {
		if got := strings.Count(string(log), fmt.Sprintf("%q:%q", "event", event)); got != n || err != nil {
			t.Errorf("in the audit log: %d %s, %v", got, event, err)
		}
	}
}

// TestOwnManifestsAreBounded: an answer has an end, and says that there is more; queries are read strictly.
func TestOwnManifestsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, keyservertest.Policy("alice"))
	_, digest := s.bind(t, v, s.job(7))
	for _, more := range []bool{false, true} {
		planted := keyapi.MaxJobManifests - 1
		if more {
			planted++
		}
		if err := keyserver.PlantJobs(s.Server, digest, planted); err != nil {
			t.Fatal(err)
		}
		list, err := s.Client(t, s.alice).ManifestsOf(t.Context(), 7, "")
		if err != nil || len(list.Manifests) != keyapi.MaxJobManifests || list.More != more {
			t.Errorf("%d more: %d, %t, %v", planted, len(list.Manifests), list.More, err)
		}
	}
	for _, path := range []string{"", "?job=", "?job=x", "?job=-1", "?job=4294967296", "?job=1&job=2", "?job=1&cluster=", "?job=1&cluster=a/b",
		"?job=1&user=alice", "?cluster=c", "?%zz", "/x", "/sha256:00"} {
		status, _ := s.raw(t, rawRequest{method: http.MethodGet, path: "/v1/manifests" + path, namespace: keyapi.Namespace,
			service: s.ID, at: time.Now(), nonce: keyservertest.RandomHex(16), signer: s.alice})
		if status != http.StatusBadRequest {
			t.Errorf("%q: status %d", path, status)
		}
	}
}
