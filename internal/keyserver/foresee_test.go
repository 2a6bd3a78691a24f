package keyserver_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestForeseen: what a release would be refused for is refused before the job waits in the queue, where the submitter can
// know it, and nothing is registered then. Without an expectation the same manifest is taken.
func TestForeseen(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	groups := func(p *manifest.Policy) { p.Users, p.Groups = nil, []string{"project_1"} }
	token := func(m *manifest.Manifest) {
		m.Attest, m.User = manifest.Attest{Type: keyapi.EvidenceToken, Parameters: []byte("{}")}, "root"
	}
	for name, c := range map[string]struct {
		policy   func(*manifest.Policy)
		manifest func(*manifest.Manifest)
		expect   keyapi.Expect
		before   func(keyservertest.Volume, string)
		says     string // "" for one that is taken
	}{
		"control": {expect: keyapi.Expect{Account: "a", Partition: "p", Nodes: []string{"cn1", "cn4"}}},
		"revoked": {before: func(v keyservertest.Volume, _ string) {
			if _, err := s.Client(t, s.alice).Revoke(t.Context(), v.ID); err != nil {
				t.Error(err)
			}
		}, says: "revoked by its owner"},
		"superseded": {before: func(_ keyservertest.Volume, name string) {
			s.Deposit(t, s.alice, name, manifest.KindDataset, keyservertest.Policy("alice"))
		}, says: "superseded by volume"},
		"pinned": {policy: func(p *manifest.Policy) { p.PinVersion = true }, before: func(_ keyservertest.Volume, name string) {
			s.Deposit(t, s.alice, name, manifest.KindDataset, keyservertest.Policy("alice"))
		}},
		"deleted": {before: func(v keyservertest.Volume, _ string) {
			if err := s.Client(t, s.alice).Delete(t.Context(), v.ID); err != nil {
				t.Error(err)
			}
		},
			says: "deleted by its owner"},
		"another user":     {policy: func(p *manifest.Policy) { p.Users = []string{"bob"} }, says: "does not name user alice"},
		"a group, perhaps": {policy: groups},
		"another cluster":  {policy: func(p *manifest.Policy) { p.Clusters = []string{"other"} }, says: "does not name cluster testcluster"},
		"another account": {policy: func(p *manifest.Policy) { p.Accounts = []string{"b"} },
			expect: keyapi.Expect{Account: "a"}, says: `account "a"`},
		"an account, as Slurm does not write it": {policy: func(p *manifest.Policy) { p.Accounts = []string{"Project_1"} },
			expect: keyapi.Expect{Account: "project_1"}},
		"a user of a domain": {policy: func(p *manifest.Policy) {
			p.Users = []string{`DOM\alice`, "bob@dom"}
			p.Groups = []string{"domain users"}
		},
			manifest: func(m *manifest.Manifest) { m.User = `DOM\alice` }},
		"the default account": {policy: func(p *manifest.Policy) { p.Accounts = []string{"b"} }},
		"another partition": {policy: func(p *manifest.Policy) { p.Partitions = []string{"q"} }, expect: keyapi.Expect{Partition: "p"},
			says: `partition "p"`},
		"another node":  {expect: keyapi.Expect{Nodes: []string{"cn1", "cn5"}}, says: `does not name node "cn5"`},
		"any node":      {policy: func(p *manifest.Policy) { p.Nodes = []string{"*"} }, expect: keyapi.Expect{Nodes: []string{"x"}}},
		"a higher tier": {policy: func(p *manifest.Policy) { p.Tier = manifest.TierA }, says: "demands evidence of tier A"},
		"other evidence": {policy: func(p *manifest.Policy) { p.Evidence = keyapi.EvidenceToken },
			says: "no evidence but of type token"},
		"a token, for whom it names": {policy: func(p *manifest.Policy) { p.Users = []string{"alice"} }, manifest: token},
		"a token for a group":        {policy: groups, manifest: token, says: "does not name user alice"},
		"a token for a partition": {policy: func(p *manifest.Policy) { p.Partitions = []string{"p"} }, manifest: token,
			says: "a one-time token does not show"},
		"no network": {policy: func(p *manifest.Policy) { p.Network = manifest.NetworkNone }, says: "without a network"},
		"too few releases left": {policy: func(p *manifest.Policy) { p.Releases = 1 }, manifest: func(m *manifest.Manifest) { m.Nodes = 2 },
			says: "too few releases of its key are left for the job's 2 nodes"},
		"too many nodes": {expect: keyapi.Expect{Nodes: make([]string, 5000)}, says: "5000 expected nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := keyservertest.Policy("alice")
			if c.policy != nil {
				c.policy(&p)
			}
			v := s.Deposit(t, s.alice, "data "+name, manifest.KindDataset, p)
			_, b := s.Manifest(t, func(m *manifest.Manifest) {
				m.Cluster = "testcluster"
				if c.manifest != nil {
					c.manifest(m)
				}
			}, v)
			if c.before != nil {
				c.before(v, "data "+name)
			}
			sig := keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b)
			client := s.Client(t, s.alice)
			_, err := client.RegisterJob(t.Context(), b, sig, keyservertest.PrivateOf(t, b), c.expect)
			if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("RegisterJob: %v; want %q", err, c.says)
			}
			if err == nil {
				return
			}
			if _, err := client.NewToken(t.Context(), manifest.DigestOf(b), ""); !errors.Is(err, keyclient.ErrNotFound) {
				t.Errorf("it is registered all the same: %v", err)
			}
			_, err = client.RegisterManifest(t.Context(), b, sig, keyservertest.PrivateOf(t, b))
			if (err != nil) != (name == "deleted") {
				t.Errorf("RegisterManifest: %v", err)
			}
		})
	}
}

// TestDearExpectations: what owners write into policies, and submitters expect, holds up nobody. Nodes that are held
// against each volume's policy take a hundred times as long as the registration without them.
func TestDearExpectations(t *testing.T) {
	s := newSite(t, keyservertest.Options{})
	ranges := make([]string, 20) // which do not hold what the last range does
	for i := range ranges {
		ranges[i] = fmt.Sprintf("%d-%d", i*10+1000000000, i*10+1000000005)
	}
	bracket := "[" + strings.Join(ranges, ",") + ",0-99999999999999999]"
	p := keyservertest.Policy("alice")
	p.Nodes = []string{strings.Repeat(bracket, 3)}
	volumes := make([]keyservertest.Volume, 65)
	for i := range volumes {
		volumes[i] = s.Deposit(t, s.alice, fmt.Sprint("d", i), manifest.KindDataset, p)
	}
	_, b := s.Manifest(t, func(m *manifest.Manifest) { m.Cluster = "testcluster" }, volumes...)
	nodes := make([]string, keyapi.MaxExpectedNodes)
	for i := range nodes {
		nodes[i] = fmt.Sprintf("%s%04d", strings.Repeat("7", 46), i)
	}
	sig, private, client := keyservertest.Sign(t, s.alice, manifest.NamespaceManifest, b), keyservertest.PrivateOf(t, b), s.Client(t, s.alice)
	fastest := func(e keyapi.Expect) time.Duration {
		best := time.Hour
		for range 3 {
			start := time.Now()
			if _, err := client.RegisterJob(t.Context(), b, sig, private, e); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	fastest(keyapi.Expect{}) // is registered
	without, with := fastest(keyapi.Expect{}), fastest(keyapi.Expect{Nodes: nodes})
	if t.Logf("%s, with nodes %s", without, with); with > 20*without {
		t.Errorf("a registration takes %s, and with nodes %s", without, with)
	}
}
