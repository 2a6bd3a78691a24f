package keyserver_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// audited returns the entries of the audit log that are about a volume.
func (s *site) audited(t *testing.T, volume string) (out []audit.Event) {
	t.Helper()
	b, err := os.ReadFile(s.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var e struct{ Entry audit.Event }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(e.Entry.Volumes, volume) {
			out = append(out, e.Entry)
		}
	}
	return out
}

// TestPolicyIsAudited: the log says which policy was set, what it replaced, and by
// which one a key was released.
func TestPolicyIsAudited(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	alice := s.Client(t, s.alice)
	first := keyservertest.Policy("alice")
	image := s.Deposit(t, s.alice, "image", manifest.KindImage, keyservertest.Policy("alice"))
	v := s.Deposit(t, s.alice, "data", manifest.KindDataset, first)
	second := keyservertest.Policy("mallory")
	second.Clusters, second.Expires = []string{"elsewhere", "testcluster"}, second.Expires.Add(time.Hour)
	if _, err := alice.SetPolicy(t.Context(), v.ID, second); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.PutSecret(t.Context(), v.ID, v.Secret); err != nil { // sets the first anew
		t.Fatal(err)
	}
	m, b := s.Manifest(t, nil, image, v)
	if _, err := s.Client(t, nil).Release(t.Context(), keyclient.ReleaseRequest{
		Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1", Attest: s.Attest("alice", 1000, nil, nil),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client(t, s.bob).SetPolicy(t.Context(), v.ID, keyservertest.Policy("bob")); err == nil {
		t.Fatal("bob set the policy")
	}

	is := func(p *audit.Policy, want *manifest.Policy) bool {
		if p == nil || want == nil {
			return p == nil && want == nil
		}
		b, digest, err := want.Encode()
		return err == nil && p.Digest == digest.String() && bytes.Equal(p.Content, b)
	}
	want := []struct {
		event           string
		policy, before  *manifest.Policy
		outcome, reason string
	}{
		{"secret.put", &first, nil, audit.OutcomeDone, ""},
		{"secret.policy", &second, &first, audit.OutcomeDone, ""},
		{"secret.put", &first, &second, audit.OutcomeDone, ""},
		{"release", nil, nil, audit.OutcomeReleased, ""},
		{"secret.policy", nil, nil, audit.OutcomeRefused, "this account deposited no volume " + v.ID},
	}
	got := s.audited(t, v.ID)
	if len(got) != len(want) {
		t.Fatalf("%d entries: %+v", len(got), got)
	}
	for i, w := range want {
		e := got[i]
		if e.Event != w.event || e.Outcome != w.outcome || e.Reason != w.reason || !is(e.Policy, w.policy) || !is(e.PolicyBefore, w.before) {
			t.Errorf("entry %d: %s %s %q, policy %+v, before %+v; want %+v", i, e.Event, e.Outcome, e.Reason, e.Policy, e.PolicyBefore, w)
		}
	}
	_, digest, _ := first.Encode()
	if p := got[3].Policies; len(p) != 2 || len(got[3].Volumes) != 2 || p[slices.Index(got[3].Volumes, v.ID)] != digest.String() {
		t.Errorf("the release of %q by policies %q, want %s", got[3].Volumes, p, digest)
	}
}
