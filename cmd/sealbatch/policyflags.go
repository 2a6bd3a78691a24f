package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// policyFlags are the flags of data-prep, container-prep and policy that make a policy.
type policyFlags struct {
	Users, Groups, Nodes, Clusters, Accounts, Partitions, Images []string
	Tier, Evidence, Expires                                      string
	Releases                                                     int
	HostBinds, Pin                                               bool
	Network                                                      string // none, any or empty for the configuration's
}

// Defaults of the policy flags, where something is published.
const (
	defaultTier    = "B2"
	defaultExpires = "365d"
)

// require puts the flags into f, HPCS's names first; compute nodes are required, as in HPCS.
func (p *policyFlags) require(f *ui.Flags) {
	p.Tier, p.Expires = defaultTier, defaultExpires
	p.add(f, ui.Required)
}

// addOptional is require for a command that changes only what is named.
func (p *policyFlags) addOptional(f *ui.Flags) { p.add(f) }

func (p *policyFlags) add(f *ui.Flags, nodes ...ui.Option) {
	f.List(&p.Users, "Unix users at the site who may open it; none: no user by name", []string{"u", "users"})
	f.List(&p.Groups, "Unix groups at the site whose members may open it; none: no group", []string{"g", "groups"})
	f.List(&p.Nodes, "compute nodes on which it may be opened: a host list, or * for any", []string{"c", "compute-nodes"}, nodes...)
	f.Word(&p.Tier, "weakest evidence that is accepted from a node: A, B1, B2, or C, the weakest, which none stands for", []string{"tier"})
	f.Word(&p.Evidence, "type of evidence that alone is accepted, such as slurm or token; any: each that reaches the tier, as by default",
		[]string{"evidence"})
	f.Word(&p.Expires, "when it stops being released: after days (90d), hours (12h), minutes (30m) or seconds (90s),\n"+
		"at the end of a day, in UTC (2027-01-31), or never", []string{"expires"})
	f.Int(&p.Releases, 0, "how often the key is released in all, 0 for no limit", []string{"releases"})
	f.List(&p.Clusters, "clusters, as the key service calls them, whose users and nodes these are (default: one's own)", []string{"clusters"})
	f.List(&p.Accounts, "Slurm accounts whose jobs may open it; *: any, as by default", []string{"accounts"})
	f.List(&p.Partitions, "Slurm partitions whose jobs may open it; *: any, as by default", []string{"partitions"})
	f.List(&p.Images, "container images with which alone it may be opened: digests (sha256:...) of images that one sealed oneself,\n"+
		"and volume ids of sealed images of anybody's; *: any, as by default", []string{"images"})
	f.Bool(&p.HostBinds, "permit jobs to bind paths of the node into the container; --allow-host-binds=false: not, as by default",
		[]string{"allow-host-binds"}, ui.Whole)
	f.Word(&p.Network, "none: only jobs whose containers have no network may open it; any: others, too\n"+
		"(default where something is published: [policy] network, or any)", []string{"network"})
	f.Bool(&p.Pin, "keep this version open to jobs after a newer one was published under its name; --pin-version=false: not",
		[]string{"pin-version"}, ui.Whole)
}

// policyList is a part of a policy that names several.
type policyList struct {
	flag, what string // its flag, and what it names
	whole      string // value of the flag that stands for an empty list; "" for none
	open       bool   // an empty list is everybody, not nobody
	of         func(*manifest.Policy) *[]string
	from       func(*policyFlags) []string
}

var policyLists = []policyList{
	{"users", "users", "none", false, func(p *manifest.Policy) *[]string { return &p.Users },
		func(p *policyFlags) []string { return p.Users }},
	{"groups", "groups", "none", false, func(p *manifest.Policy) *[]string { return &p.Groups },
		func(p *policyFlags) []string { return p.Groups }},
	{"compute-nodes", "compute nodes", "", false, func(p *manifest.Policy) *[]string { return &p.Nodes },
		func(p *policyFlags) []string { return p.Nodes }},
	{"clusters", "clusters", "", true, func(p *manifest.Policy) *[]string { return &p.Clusters },
		func(p *policyFlags) []string { return p.Clusters }},
	{"accounts", "accounts", "*", true, func(p *manifest.Policy) *[]string { return &p.Accounts },
		func(p *policyFlags) []string { return p.Accounts }},
	{"partitions", "partitions", "*", true, func(p *manifest.Policy) *[]string { return &p.Partitions },
		func(p *policyFlags) []string { return p.Partitions }},
	{"images", "images", "*", true, func(p *manifest.Policy) *[]string { return &p.Images },
		func(p *policyFlags) []string { return p.Images }},
}

// Policy makes the policy of something that is published, as of now.
func (p *policyFlags) Policy(now time.Time) (manifest.Policy, error) {
	var out manifest.Policy
	err := p.set(&out, func(string) bool { return true }, now)
	return out, err
}

// set changes the parts of a policy whose flags are named, as of now.
func (p *policyFlags) set(to *manifest.Policy, named func(flag string) bool, now time.Time) error {
	for _, l := range policyLists {
		if !named(l.flag) {
			continue
		}
		list := l.from(p)
		if l.whole != "" && slices.Contains(list, l.whole) {
			if len(list) > 1 {
				return usageError(fmt.Sprintf("--%s: %s stands alone, not beside others", l.flag, l.whole), "")
			}
			list = nil
		}
		*l.of(to) = list
	}
	if err := p.setWords(to, named, now); err != nil {
		return fault.New(fault.Usage, err, "")
	}
	if named("releases") {
		to.Releases = p.Releases
	}
	if named("allow-host-binds") {
		to.HostBinds = p.HostBinds
	}
	if named("pin-version") {
		to.PinVersion = p.Pin
	}
	return validPolicy(*to)
}

// setWords is set for flags with one word.
func (p *policyFlags) setWords(to *manifest.Policy, named func(flag string) bool, now time.Time) (err error) {
	if named("tier") {
		tier := strings.ToUpper(p.Tier)
		if tier == "NONE" {
			tier = manifest.TierC.String()
		}
		if to.Tier, err = manifest.ParseTier(tier); err != nil {
			return fmt.Errorf("--tier: %w", err)
		}
	}
	if named("expires") {
		if to.Expires, err = parseExpiry(p.Expires, now); err != nil {
			return fmt.Errorf("--expires: %w", err)
		}
	}
	if named("evidence") {
		to.Evidence = unlessAny(p.Evidence)
	}
	if named("network") {
		to.Network = unlessAny(p.Network)
	}
	return nil
}

// unlessAny returns a word, or "" for any.
func unlessAny(word string) string {
	if word == "any" {
		return ""
	}
	return word
}

func validPolicy(p manifest.Policy) error {
	if len(p.Users)+len(p.Groups) == 0 {
		return fault.New(fault.Usage, fmt.Errorf("nobody could open it"), "name at least one user (-u) or group (-g)")
	}
	for _, image := range p.Images {
		if !manifest.ValidImagePin(image) {
			return usageError(fmt.Sprintf("--images: %.80q is neither the digest of an image nor the id of a sealed one", image),
				"sealbatch policy show shows both of an image that you sealed, and so does its info file (image: digest, volume_id)")
		}
	}
	return fault.New(fault.Usage, p.Validate(), "")
}

// complete has a policy say what the flags leave to the configuration.
func (p *policyFlags) complete(ctx context.Context, c *client, to *manifest.Policy) error {
	if p.Network == "" && c.conf.Policy.Network == manifest.NetworkNone {
		to.Network = manifest.NetworkNone
	}
	return c.ofCluster(ctx, to)
}

// parseExpiry reads a span (text.ParseSpan), "2027-01-31" (the end of that day, UTC) or "never".
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "never" {
		return manifest.Never, nil
	}
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		end := day.Add(24*time.Hour - time.Second)
		if !end.After(now) {
			return time.Time{}, fmt.Errorf("%s is past", s)
		}
		return end, nil
	}
	span, err := text.ParseSpan(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w, nor a date such as 2027-01-31, nor never", err)
	}
	return now.Add(span).UTC().Truncate(time.Second), nil
}
