package keyserver_test

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// attempt is a release by alice's job 7 on cn1, attested by the verifier; a
// case alters it.
type attempt struct {
	*site
	name    string // of the volume
	policy  manifest.Policy
	flags   func(*manifest.Manifest) // alters the manifest
	voucher func(*keyapi.Voucher)
	user    string
	groups  []string
	job     manifest.Job
	node    string
	before  func(t *testing.T, a *attempt, v keyservertest.Volume, r keyclient.ReleaseRequest) // runs after registration
}

func (a *attempt) request(m manifest.Manifest, d manifest.Digest) keyclient.ReleaseRequest {
	return keyclient.ReleaseRequest{Manifest: m, Digest: d, Job: a.job, Node: a.node, Attest: a.Attest(a.user, 1000, a.groups, a.voucher)}
}

// clock is a service's clock that a test can move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time      { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) add(d time.Duration) { c.offset.Add(int64(d)) }
func (a *attempt) release(t *testing.T, r keyclient.ReleaseRequest) error {
	t.Helper()
	got, err := a.Client(t, nil).Release(t.Context(), r)
	if err != nil && len(got.Keys) != 0 {
		t.Error("keys beside an error")
	}
	return err
}

// releaseCases is the table of refusals; want nil is a control that succeeds.
func releaseCases(t *testing.T, c *clock) map[string]struct {
	want   error
	change func(*attempt)
} {
	expire := func(d time.Duration) func(t *testing.T, a *attempt, v keyservertest.Volume, r keyclient.ReleaseRequest) {
		return func(*testing.T, *attempt, keyservertest.Volume, keyclient.ReleaseRequest) { c.add(d) }
	}
	first := func(alter func(*keyclient.ReleaseRequest)) func(t *testing.T, a *attempt, v keyservertest.Volume, r keyclient.ReleaseRequest) {
		return func(t *testing.T, a *attempt, _ keyservertest.Volume, r keyclient.ReleaseRequest) {
			if alter != nil {
				alter(&r)
			}
			if err := a.release(t, r); err != nil {
				t.Errorf("first release: %v", err)
			}
		}
	}
	resealed := func(t *testing.T, a *attempt, _ keyservertest.Volume, _ keyclient.ReleaseRequest) {
		a.Deposit(t, a.alice, a.name, manifest.KindDataset, keyservertest.Policy("alice"))
	}
	return map[string]struct {
		want   error
		change func(*attempt)
	}{
		"control": {nil, func(*attempt) {}},
		"by group": {nil, func(a *attempt) {
			a.policy.Users, a.policy.Groups, a.groups = nil, []string{"p1"}, []string{"p0", "p1"}
		}},
		"any node": {nil, func(a *attempt) { a.policy.Nodes, a.node = []string{"*"}, "gpu17" }},
		"restart": {nil, func(a *attempt) {
			a.job.Restart = 1
			a.before = first(func(r *keyclient.ReleaseRequest) { r.Job.Restart = 0 })
		}},
		"second node": {nil, func(a *attempt) {
			a.flags = twoNodes
			a.before = first(func(r *keyclient.ReleaseRequest) { r.Node = "cn2" })
		}},
		"binds allowed": {nil, func(a *attempt) { a.policy.HostBinds = true; a.flags = withFlags(t, "--bind", "/x") }},
		"no network": {nil, func(a *attempt) {
			a.policy.Network = manifest.NetworkNone
			a.flags = func(m *manifest.Manifest) { m.Network = manifest.NetworkNone }
		}},
		"less network": {nil, func(a *attempt) { a.flags = func(m *manifest.Manifest) { m.Network = manifest.NetworkNone } }},
		"pinned":       {nil, func(a *attempt) { a.policy.PinVersion = true; a.before = resealed }},
		"account and partition": {nil, func(a *attempt) {
			a.policy.Accounts, a.policy.Partitions = []string{"project_1"}, []string{"small", "normal"}
		}},

		"other user": {keyclient.ErrPolicy, func(a *attempt) { a.user = "mallory" }},
		"other group": {keyclient.ErrPolicy, func(a *attempt) {
			a.user, a.groups, a.policy.Groups = "mallory", []string{"p2"}, []string{"p1"}
		}},
		"wrong node":      {keyclient.ErrPolicy, func(a *attempt) { a.node = "cn5" }},
		"node by prefix":  {keyclient.ErrPolicy, func(a *attempt) { a.node = "cn1x" }},
		"weak tier":       {keyclient.ErrPolicy, func(a *attempt) { a.policy.Tier = manifest.TierB1 }},
		"manifest's tier": {keyclient.ErrPolicy, func(a *attempt) { a.flags = func(m *manifest.Manifest) { m.Tier = manifest.TierA } }},
		"other account":   {keyclient.ErrPolicy, func(a *attempt) { a.policy.Accounts = []string{"project_2"} }},
		"the cluster":     {nil, func(a *attempt) { a.policy.Clusters = []string{"elsewhere", "testcluster"} }},
		"its evidence":    {nil, func(a *attempt) { a.policy.Evidence = keyapi.EvidenceSlurm }},
		"other evidence":  {keyclient.ErrPolicy, func(a *attempt) { a.policy.Evidence = keyapi.EvidenceToken }},
		"no cluster": {keyclient.ErrPolicy, func(a *attempt) {
			a.policy.Clusters, a.policy.Evidence = nil, keyapi.EvidenceToken
		}},
		"another cluster": {keyclient.ErrPolicy, func(a *attempt) { a.policy.Clusters = []string{"elsewhere"} }},
		"other partition": {keyclient.ErrPolicy, func(a *attempt) { a.policy.Partitions = []string{"gpu"} }},
		"a network":       {keyclient.ErrPolicy, func(a *attempt) { a.policy.Network = manifest.NetworkNone }},
		"host binds":      {keyclient.ErrPolicy, func(a *attempt) { a.flags = withFlags(t, "--nv", "--bind", "/x") }},
		"expired policy": {keyclient.ErrPolicy, func(a *attempt) {
			a.flags = func(m *manifest.Manifest) { m.Expires = m.Expires.Add(time.Hour) }
			a.before = expire(61 * time.Minute)
		}},
		"expired manifest": {keyclient.ErrPolicy, func(a *attempt) {
			a.policy.Expires = a.policy.Expires.Add(time.Hour)
			a.before = expire(61 * time.Minute)
		}},
		"superseded": {keyclient.ErrPolicy, func(a *attempt) { a.before = resealed }},
		"revoked": {keyclient.ErrPolicy, func(a *attempt) {
			a.before = func(t *testing.T, a *attempt, v keyservertest.Volume, _ keyclient.ReleaseRequest) {
				if _, err := a.Client(t, a.alice).Revoke(t.Context(), v.ID); err != nil {
					t.Error(err)
				}
			}
		}},
		"policy narrowed later": {keyclient.ErrPolicy, func(a *attempt) {
			a.before = func(t *testing.T, a *attempt, v keyservertest.Volume, _ keyclient.ReleaseRequest) {
				if _, err := a.Client(t, a.alice).SetPolicy(t.Context(), v.ID, keyservertest.Policy("bob")); err != nil {
					t.Error(err)
				}
			}
		}},
		"releases used up": {keyclient.ErrPolicy, func(a *attempt) {
			a.policy.Releases, a.flags = 1, twoNodes
			a.before = first(func(r *keyclient.ReleaseRequest) { r.Node = "cn2" })
		}},
		"other cluster": {keyclient.ErrPolicy, func(a *attempt) {
			a.flags = func(m *manifest.Manifest) {
				m.Cluster = "elsewhere"
			}
		}},

		"second claim":              {keyclient.ErrConflict, func(a *attempt) { a.before = first(nil) }},
		"second claim of two nodes": {keyclient.ErrConflict, func(a *attempt) { a.flags = twoNodes; a.before = first(nil) }},
		"one node too many": {keyclient.ErrConflict,
			func(a *attempt) { a.before = first(func(r *keyclient.ReleaseRequest) { r.Node = "cn2" }) }},
		"other job": {keyclient.ErrConflict, func(a *attempt) {
			a.flags = twoNodes
			a.before = first(func(r *keyclient.ReleaseRequest) { r.Job.ID = 8 })
		}},
		"other array task": {keyclient.ErrConflict, func(a *attempt) {
			a.flags = twoNodes
			a.before = first(func(r *keyclient.ReleaseRequest) { r.Job.ArrayTask = 3 })
		}},

		"unknown manifest": {keyclient.ErrNotFound, func(a *attempt) {
			a.flags = twoNodes // not registered, below
		}},
		"root": {keyclient.ErrAttestation, func(a *attempt) { a.voucher = func(v *keyapi.Voucher) { v.UID = 0 } }},
		"stale voucher": {keyclient.ErrAttestation, func(a *attempt) {
			a.voucher = func(v *keyapi.Voucher) { v.Issued = v.Issued.Add(-2 * time.Minute) }
		}},
		"voucher's node":    {keyclient.ErrAttestation, func(a *attempt) { a.voucher = func(v *keyapi.Voucher) { v.Node = "cn2" } }},
		"voucher's job":     {keyclient.ErrAttestation, func(a *attempt) { a.voucher = func(v *keyapi.Voucher) { v.Job.ID = 99 } }},
		"voucher's service": {keyclient.ErrAttestation, func(a *attempt) { a.voucher = func(v *keyapi.Voucher) { v.Service = "other" } }},
		"no such cluster":   {keyclient.ErrAttestation, func(a *attempt) { a.job.Cluster = "nowhere" }},
	}
}

func twoNodes(m *manifest.Manifest) { m.Nodes = 2 }

func withFlags(t *testing.T, f ...string) func(*manifest.Manifest) {
	return func(m *manifest.Manifest) { m.Private = keyservertest.Private(t, nil, f) }
}

func TestRelease(t *testing.T) {
	t.Parallel()
	shared := newSite(t, keyservertest.Options{})
	for name := range releaseCases(t, nil) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := &clock{}, shared
			if strings.HasPrefix(name, "expired") {
				s = newSite(t, keyservertest.Options{Now: c.now})
			}
			tc := releaseCases(t, c)[name]
			a := &attempt{site: s, name: name, policy: keyservertest.Policy("alice"), user: "alice", job: s.job(7), node: "cn1"}
			tc.change(a)
			v := s.Deposit(t, s.alice, a.name, manifest.KindDataset, a.policy)
			m, b := s.Manifest(t, a.flags, v)
			r := a.request(m, manifest.DigestOf(b))
			if !errors.Is(tc.want, keyclient.ErrNotFound) {
				s.Register(t, s.alice, b)
			}
			if a.before != nil {
				a.before(t, a, v, r)
			}
			err := a.release(t, r)
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Fatalf("release: %v\nwant: %v", err, tc.want)
			}
			if tc.want != nil {
				s.wantAudited(t, `"event":"release","outcome":"refused"`, r.Digest.String())
			}
		})
	}
}

// wantAudited looks for an entry that holds all of words.
func (s *site) wantAudited(t *testing.T, words ...string) {
	t.Helper()
	b, err := os.ReadFile(s.Layout.Audit)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return
		}
	}
	t.Errorf("the audit log holds no line with %q", words)
}

// TestAllOrNothing refuses one of two volumes: neither may be counted.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	good := s.Deposit(t, s.alice, "good", manifest.KindImage, keyservertest.Policy("alice"))
	bad := s.Deposit(t, s.bob, "bad", manifest.KindDataset, keyservertest.Policy("bob"))
	m, b := s.Manifest(t, nil, good, bad)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: "cn1",
		Attest: s.Attest("alice", 1000, nil, nil)}
	if _, err := s.Client(t, nil).Release(t.Context(), r); !errors.Is(err, keyclient.ErrPolicy) {
		t.Fatalf("release: %v", err)
	}
	if i, err := s.Client(t, s.alice).GetSecret(t.Context(), good.ID); err != nil || i.Released != 0 {
		t.Errorf("the other volume counts %d releases, %v", i.Released, err)
	}
	// Nothing was bound either: once the owner permits it, another job may come.
	p := keyservertest.Policy("alice")
	if _, err := s.Client(t, s.bob).SetPolicy(t.Context(), bad.ID, p); err != nil {
		t.Fatal(err)
	}
	r.Job.ID = 8
	if _, err := s.Client(t, nil).Release(t.Context(), r); err != nil {
		t.Errorf("after the policy was changed: %v", err)
	}
}

// TestConcurrentClaims lets 24 nodes claim at once for a job of one node, and
// 24 nodes of one job for a key that may be released 10 times.
func TestConcurrentClaims(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		nodes, releases, want int
		node                  func(i int) string
	}{
		"one node, 24 claims":      {1, 0, 1, func(int) string { return "cn1" }},
		"24 nodes, 10 releases":    {24, 10, 10, func(i int) string { return "cn" + string(rune('a'+i/25)) + string(rune('a'+i%25)) }},
		"10 nodes of 24 are taken": {10, 0, 10, func(i int) string { return "cn" + string(rune('a'+i/25)) + string(rune('a'+i%25)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, keyservertest.Options{})
			p := keyservertest.Policy("alice")
			p.Releases, p.Nodes = tc.releases, []string{"*"}
			v := s.Deposit(t, s.alice, "data", manifest.KindDataset, p)
			m, b := s.Manifest(t, func(m *manifest.Manifest) { m.Nodes = tc.nodes }, v)
			digest := s.Register(t, s.alice, b)
			client := s.Client(t, nil)
			var won atomic.Int32
			var wg sync.WaitGroup
			for i := range 24 {
				wg.Go(func() {
					_, err := client.Release(t.Context(), keyclient.ReleaseRequest{Manifest: m, Digest: digest, Job: s.job(7),
						Node: tc.node(i), Attest: s.Attest("alice", 1000, nil, nil)})
					switch {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, keyclient.ErrConflict) && !errors.Is(err, keyclient.ErrPolicy):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			i, err := s.Client(t, s.alice).GetSecret(t.Context(), v.ID)
			if err != nil || int(won.Load()) != tc.want || i.Released != tc.want {
				t.Errorf("%d won, %d counted, %v; want %d", won.Load(), i.Released, err, tc.want)
			}
			f, err := os.Open(s.Layout.Audit)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if row, err := audit.Verify(s.StatementKey, []io.Reader{f}); err != nil || row.Entries < 24 {
				t.Errorf("audit: %d entries, %v", row.Entries, err)
			}
		})
	}
}

// TestExpiredTokensAreForgotten restarts a service after a token has expired.
