package manifest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	old := Policy{Users: []string{"alice", "bob"}, Nodes: []string{"cn[1-4]"}, Tier: TierB2, Expires: at, Releases: 3,
		Clusters: []string{"box"}, HostBinds: true}
	now := old
	now.Users, now.Groups, now.Tier, now.Releases, now.HostBinds = []string{"carol", "alice"}, []string{"p"}, TierC, 0, false
	var crowd []string
	for i := range 500 {
		crowd = append(crowd, fmt.Sprint("user", i))
	}
	encode := func(p Policy) []byte {
		b, _, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		before, after []byte
		want          []string
	}{
		"first": {nil, encode(old), []string{"clusters: +box", "compute_nodes: +cn[1-4]", "expires: 2026-11-22T12:00:00Z",
			"host_binds: true", "releases: 3", "tier: B2", "users: +alice +bob"}},
		"same": {encode(old), encode(old), nil},
		"some": {encode(old), encode(now), []string{"groups: +p", "host_binds: true -> not set", "releases: 3 -> not set",
			"tier: B2 -> C", "users: +carol -bob"}},
		"order": {encode(Policy{Users: []string{"a", "b"}, Tier: TierC}), encode(Policy{Users: []string{"b", "a"}, Tier: TierC}),
			[]string{"users: in another order"}},
	} {
		if got, err := PolicyChanges(c.before, c.after); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	now.Users = crowd
	got, err := PolicyChanges(encode(old), encode(now))
	if err != nil || len(got[4]) > maxChange+10 {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := PolicyChanges([]byte("{"), encode(old)); err == nil {
		t.Errorf("damaged: %q", got)
	}
}
