package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/ui"
)

func TestParseExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"90d":        now.AddDate(0, 0, 90),
		"12h":        now.Add(12 * time.Hour),
		"2027-01-31": time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC),
		"2026-11-22": time.Date(2026, 11, 22, 23, 59, 59, 0, time.UTC),
		"never":      manifest.Never,
	} {
		got, err := parseExpiry(s, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("parseExpiry(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "0d", "-1d", "90", "1.5d", "99999d", "2026-11-21", "31.1.2027", "2027-02-30"} {
		if got, err := parseExpiry(s, now); err == nil {
			t.Errorf("parseExpiry(%q) = %v", s, got)
		}
	}
}

func TestPolicyFlags(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var p policyFlags
	f := ui.NewFlags("x", "", "", "")
	p.require(f)
	args := []string{"-u", "alice,bob", "--groups", "project_1", "-c", "cn[1-2],cn7", "--tier=b2", "--releases", "3"}
	if err := f.Parse(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	got, err := p.Policy(now)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Users) != 2 || len(got.Nodes) != 2 || got.Tier != manifest.TierB2 || got.Releases != 3 ||
		!got.Expires.Equal(now.AddDate(0, 0, 365)) {
		t.Errorf("policy = %+v", got)
	}
	for _, bad := range []func(*policyFlags){
		func(p *policyFlags) { p.Users, p.Groups = nil, nil },
		func(p *policyFlags) { p.Users = []string{"a;b"} },
		func(p *policyFlags) { p.Nodes = []string{"cn1;rm"} },
		func(p *policyFlags) { p.Tier = "D" },
		func(p *policyFlags) { p.Expires = "90" },
		func(p *policyFlags) { p.Network = "bridge" },
	} {
		q := p
		bad(&q)
		if _, err := q.Policy(now); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// TestPolicyNetwork: a flag goes before the configuration, either way.
func TestPolicyNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, conf, want string }{
		{"", "", ""}, {"", "any", ""}, {"", "none", "none"}, {"none", "any", "none"}, {"none", "", "none"}, {"any", "none", ""},
	} {
		p := policyFlags{Users: []string{"alice"}, Nodes: []string{"*"}, Clusters: []string{"c"}, Tier: defaultTier,
			Expires: defaultExpires, Network: c.flag}
		got, err := p.Policy(time.Now())
		if err == nil {
			err = p.complete(t.Context(), &client{conf: &config.Client{Policy: config.Policy{Network: c.conf}}}, &got)
		}
		if err != nil || got.Network != c.want {
			t.Errorf("flag %q, configuration %q: %q, %v", c.flag, c.conf, got.Network, err)
		}
	}
}

// TestHostLists: a policy's nodes must be host lists before anything is sealed.
func TestHostLists(t *testing.T) {
	t.Parallel()
	p := policyFlags{Users: []string{"alice"}, Tier: defaultTier, Expires: defaultExpires}
	for nodes, ok := range map[string]bool{"cn1": true, "cn[1-3,7]": true, "*": true, "cn[1": false, "cn[3-1]": false} {
		p.Nodes = []string{nodes}
		if _, err := p.Policy(time.Now()); (err == nil) != ok || (err != nil && fault.ClassOf(err) != fault.Usage) {
			t.Errorf("%s: %v", nodes, err)
		}
	}
}
