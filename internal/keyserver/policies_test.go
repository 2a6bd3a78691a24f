package keyserver_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// TestDearHostLists: what an owner writes into policies holds up nobody. All decisions
// wait for one another, and a job may have 65 volumes.
func TestDearHostLists(t *testing.T) {
	t.Parallel()
	s := newSite(t, keyservertest.Options{})
	wide := strings.Repeat("[1-99999999999999999]", 3)
	node := strings.Repeat("a", 245) + "65535"
	var volumes []keyservertest.Volume
	for i := range 65 {
		p := keyservertest.Policy("alice")
		// Many names, and what is dear to match, in each policy others.
		p.Nodes = []string{strings.Repeat("a", 245) + "[00000-65535]"}
		if i%2 == 0 {
			p.Nodes = append(p.Nodes, strings.TrimSuffix(strings.Repeat(wide+",", 20), ","), fmt.Sprint("b", i))
		}
		volumes = append(volumes, s.Deposit(t, s.alice, fmt.Sprint("v", i), manifest.KindDataset, p))
	}
	m, b := s.Manifest(t, nil, volumes...)
	r := keyclient.ReleaseRequest{Manifest: m, Digest: s.Register(t, s.alice, b), Job: s.job(7), Node: node,
		Attest: s.Attest("alice", 1000, nil, nil)}
	start := time.Now()
	if got, err := s.Client(t, nil).Release(t.Context(), r); err != nil || len(got.Keys) != 65 {
		t.Fatalf("%d keys, %v", len(got.Keys), err)
	}
	// Names that are written down one by one take ten seconds.
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a release took %s", took)
	}
}
