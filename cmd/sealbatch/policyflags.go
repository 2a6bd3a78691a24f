package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// policyFlags are the flags of data-prep and container-prep that make a policy.
type policyFlags struct {
	Users, Groups, Nodes, Clusters, Accounts, Partitions []string
	Tier, Evidence, Expires                              string
	Releases                                             int
	HostBinds, Pin                                       bool
	Network                                              string // none, any or empty for the configuration's
}

// Defaults of the policy flags.
const (
	defaultTier    = "B2"
	defaultExpires = "365d"
)

// require puts the flags into f, HPCS's names first; compute nodes are required, as in HPCS.
func (p *policyFlags) require(f *ui.Flags) { p.add(f, ui.Required) }

// addOptional is require for a command that needs them only sometimes.
func (p *policyFlags) addOptional(f *ui.Flags) { p.add(f) }

func (p *policyFlags) add(f *ui.Flags, nodes ...ui.Option) {
	p.Tier, p.Expires = defaultTier, defaultExpires
	f.List(&p.Users, "Unix users at the site who may open it", []string{"u", "users"})
	f.List(&p.Groups, "Unix groups at the site whose members may open it", []string{"g", "groups"})
	f.List(&p.Nodes, "compute nodes on which it may be opened: a host list, or * for any", []string{"c", "compute-nodes"}, nodes...)
	f.Word(&p.Tier, "weakest evidence that is accepted from a node: A, B1, B2 or C", []string{"tier"})
	f.Word(&p.Evidence, "type of evidence that alone is accepted, such as slurm or token (default: any that reaches the tier)",
		[]string{"evidence"})
	f.Word(&p.Expires, "when it stops being released: a number of days (90d) or hours (12h), or a date (2027-01-31)", []string{"expires"})
	f.Int(&p.Releases, 0, "how often the key is released in all, 0 for no limit", []string{"releases"})
	f.List(&p.Clusters, "clusters, as the key service calls them, whose users and nodes these are (default: one's own)", []string{"clusters"})
	f.List(&p.Accounts, "Slurm accounts whose jobs may open it (default: any)", []string{"accounts"})
	f.List(&p.Partitions, "Slurm partitions whose jobs may open it (default: any)", []string{"partitions"})
	f.Bool(&p.HostBinds, "permit jobs to bind paths of the node into the container", []string{"allow-host-binds"})
	f.Word(&p.Network, "none: only jobs whose containers have no network may open it (default: [policy] network, or any)",
		[]string{"network"})
	f.Bool(&p.Pin, "keep this version open to jobs after a newer one was published under its name", []string{"pin-version"})
}

// Policy makes the policy, as of now.
func (p *policyFlags) Policy(now time.Time) (manifest.Policy, error) {
	expires, err := parseExpiry(p.Expires, now)
	if err != nil {
		return manifest.Policy{}, fault.New(fault.Usage, fmt.Errorf("--expires: %w", err), "")
	}
	tier, err := manifest.ParseTier(strings.ToUpper(p.Tier))
	if err != nil {
		return manifest.Policy{}, fault.New(fault.Usage, fmt.Errorf("--tier: %w", err), "")
	}
	out := manifest.Policy{
		Users: p.Users, Groups: p.Groups, Nodes: p.Nodes, Clusters: p.Clusters, Accounts: p.Accounts, Partitions: p.Partitions,
		Tier: tier, Evidence: p.Evidence, Expires: expires, Releases: p.Releases, HostBinds: p.HostBinds, PinVersion: p.Pin,
	}
	if p.Network != "any" {
		out.Network = p.Network
	}
	if len(p.Users)+len(p.Groups) == 0 {
		return out, fault.New(fault.Usage, fmt.Errorf("nobody could open it"), "name at least one user (-u) or group (-g)")
	}
	if err := out.Validate(); err != nil {
		return out, fault.New(fault.Usage, err, "")
	}
	return out, nil
}

// complete has a policy say what the flags leave to the configuration.
func (p *policyFlags) complete(ctx context.Context, c *client, to *manifest.Policy) error {
	if p.Network == "" && c.conf.Policy.Network == manifest.NetworkNone {
		to.Network = manifest.NetworkNone
	}
	return c.ofCluster(ctx, to)
}

// parseExpiry reads a span (text.ParseSpan) or "2027-01-31" (the end of that day, UTC).
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		end := day.Add(24*time.Hour - time.Second)
		if !end.After(now) {
			return time.Time{}, fmt.Errorf("%s is past", s)
		}
		return end, nil
	}
	span, err := text.ParseSpan(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%.40q is not a span (90d, 12h) or a date (2027-01-31)", s)
	}
	return now.Add(span).UTC().Truncate(time.Second), nil
}
