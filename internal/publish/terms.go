package publish

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// keepPolicy has p keep the policy in force of a volume that is there. It refuses
// another one: setting it needs no sealing.
func (p *publishing) keepPolicy(st *standing) error {
	inForce := st.secret.Policy
	other := changes(inForce, p.wanted(inForce, st.Expiry))
	refuse := func(what, hint string) error {
		return fault.New(fault.Usage, fmt.Errorf("%s is published already, unchanged, and %s; nothing was sealed, shipped or set",
			transfer.At(p.r.pathAtRest()), what), hint)
	}
	set := "sealbatch policy set " + st.VolumeID + " "
	switch {
	case st.secret.PolicyVoid:
		return refuse("its policy counts no more", set+p.setFlags(manifest.Policy{}, "")+" sets it again, which takes no sealing")
	case len(other) > 0 && len(changes(st.info.Policy, p.wanted(st.info.Policy, st.Expiry))) > 0:
		return refuse("the policy that is asked for is not the one in force: "+strings.Join(other, "; "),
			set+p.setFlags(inForce, st.Expiry)+" changes that and takes no sealing; then the same command again renews the info file")
	case !time.Now().Before(inForce.Expires):
		return refuse("its policy expired on "+inForce.Expires.Format(time.DateOnly),
			set+"--expires "+cmp.Or(p.r.Expiry, "90d")+" renews it, which takes no sealing")
	case len(other) > 0:
		p.Log.Info("its policy was set anew since, which stays", "volume", st.VolumeID)
	}
	p.r.Policy = inForce
	return nil
}

// wanted returns the policy that is asked for, with the expiry of another one where it
// was asked for in the same words, or a little earlier.
func (p *publishing) wanted(have manifest.Policy, words string) manifest.Policy {
	want := p.r.Policy
	apart := want.Expires.Sub(have.Expires).Abs()
	if p.r.Expiry == words || apart <= time.Until(want.Expires)/10 {
		want.Expires = have.Expires
	}
	return want
}

// changes says how policies differ, in whatever order their lists are.
func changes(was, is manifest.Policy) []string {
	encode := func(p manifest.Policy) []byte {
		for _, l := range []*[]string{&p.Users, &p.Groups, &p.Nodes, &p.Clusters, &p.Accounts, &p.Partitions, &p.Images} {
			*l = slices.Compact(slices.Sorted(slices.Values(*l)))
		}
		p.Expires = p.Expires.UTC()
		b, _ := json.Marshal(p) // a Policy can be marshalled
		return b
	}
	out, err := manifest.PolicyChanges(encode(was), encode(is))
	if err != nil {
		return []string{err.Error()}
	}
	return out
}

// setFlags returns the flags of policy set that make the policy that is asked for of
// another one, whose expiry was asked for in words.
func (p *publishing) setFlags(was manifest.Policy, words string) string {
	var out []string
	flag := func(name, old, now, none string) {
		if old != now {
			out = append(out, "--"+name+"="+cmp.Or(now, none))
		}
	}
	list := func(l []string) string { return strings.Join(slices.Compact(slices.Sorted(slices.Values(l))), ",") }
	is := p.wanted(was, words)
	flag("users", list(was.Users), list(is.Users), "none")
	flag("groups", list(was.Groups), list(is.Groups), "none")
	flag("compute-nodes", list(was.Nodes), list(is.Nodes), "")
	flag("clusters", list(was.Clusters), list(is.Clusters), "")
	flag("accounts", list(was.Accounts), list(is.Accounts), "*")
	flag("partitions", list(was.Partitions), list(is.Partitions), "*")
	flag("images", list(was.Images), list(is.Images), "*")
	flag("tier", fmt.Sprint(was.Tier), fmt.Sprint(is.Tier), "")
	flag("evidence", was.Evidence, is.Evidence, "any")
	flag("network", was.Network, is.Network, "any")
	flag("releases", fmt.Sprint(was.Releases), fmt.Sprint(is.Releases), "")
	flag("allow-host-binds", fmt.Sprint(was.HostBinds), fmt.Sprint(is.HostBinds), "")
	flag("pin-version", fmt.Sprint(was.PinVersion), fmt.Sprint(is.PinVersion), "")
	if !is.Expires.Equal(was.Expires) && p.r.Expiry != "" {
		out = append(out, "--expires="+p.r.Expiry)
	}
	return shellwords.QuoteArgs(out...)
}
