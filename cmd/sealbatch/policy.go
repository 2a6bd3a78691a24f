package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

func runPolicy(ctx context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch policy", "Show, replace or revoke who may open your volumes, and see who did.",
		"list | show VOLUME | log VOLUME | set VOLUME | revoke VOLUME | delete VOLUME", `
sealbatch policy list
sealbatch policy show encrypted_jp2a_input.tgz
sealbatch policy log encrypted_jp2a_input.tgz
sealbatch policy set 9c1f... -u etellier,colleague -c nid003044 --expires 30d
sealbatch policy revoke 9c1f...
sealbatch policy delete --superseded encrypted_jp2a_input.tgz`)
	var cf clientFlags
	var pf policyFlags
	var end endFlags
	var asJSON bool
	cf.add(f)
	end.add(f)
	pf.addOptional(f)
	f.Bool(&asJSON, "with log: print JSON", []string{"json"})
	if err := f.Parse(args, a.stdout); err != nil {
		return err
	}
	words := f.Args()
	if len(words) == 0 || (len(words) == 1) != (words[0] == "list") || len(words) > 2 {
		return usageError("sealbatch policy: the words are: list, and with a VOLUME show, log, set, revoke, delete",
			"sealbatch policy --help shows an example")
	}
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return err
	}
	if words[0] == "list" {
		return listSecrets(a, c.keys.Secrets(ctx))
	}
	if words[0] == "delete" {
		return c.remove(ctx, a, words[1], end)
	}
	if words[0] == "log" {
		return c.showLog(ctx, words[1], asJSON)
	}
	s, err := c.findSecret(ctx, words[1])
	if err != nil {
		return err
	}
	switch words[0] {
	case "show":
	case "set":
		s, err = c.setPolicy(ctx, s, pf)
	case "revoke":
		s, err = c.revoke(ctx, a, s, end)
	default:
		err = usageError("sealbatch policy: unknown word "+words[0], "it is one of list, show, log, set, revoke, delete")
	}
	if err != nil {
		return err
	}
	return showSecret(a, s)
}

// setPolicy replaces a volume's policy by what the flags say.
func (c *client) setPolicy(ctx context.Context, s keyapi.SecretInfo, pf policyFlags) (keyapi.SecretInfo, error) {
	p, err := pf.Policy(time.Now())
	if err != nil {
		return s, err
	}
	if err := pf.complete(ctx, c, &p); err != nil {
		return s, err
	}
	return c.keys.SetPolicy(ctx, s.VolumeID, p)
}

// ofCluster has a policy say whose users and nodes it names, if it does not: on
// another cluster of the key service somebody else may have that name. Where no
// cluster is known, nobody but holders of tokens can open the volume, and one that is
// enrolled later changes nothing in that.
func (c *client) ofCluster(ctx context.Context, p *manifest.Policy) error {
	if len(p.Clusters) > 0 {
		return nil
	}
	if name := c.conf.Supercomputer.Cluster; name != "" {
		p.Clusters = []string{name}
		return nil
	}
	s, err := c.keys.Service(ctx)
	if err != nil {
		return err
	}
	if len(s.Clusters) > 1 {
		var names []string
		for _, known := range s.Clusters {
			names = append(names, known.Name)
		}
		return fault.New(fault.Config,
			fmt.Errorf("the key service knows several clusters (%q), and users of one name may be different people there", names),
			"name the cluster under [supercomputer] cluster, or with --clusters")
	}
	for _, only := range s.Clusters {
		p.Clusters = []string{only.Name}
		return nil
	}
	if p.Tier == manifest.TierC && p.Evidence == "" {
		p.Evidence = keyapi.EvidenceToken
	}
	if p.Evidence == "" || p.Evidence == keyapi.EvidenceSlurm {
		return fault.New(fault.Config, fmt.Errorf("the key service knows no cluster yet whose users and nodes the policy could name"),
			"name the one that it will know under [supercomputer] cluster, or with --clusters; "+
				"or let one-time tokens do, with --tier C")
	}
	return nil
}

// findSecret takes a volume id or a name; of several versions of a name, the
// one that is in force.
func (c *client) findSecret(ctx context.Context, ref string) (keyapi.SecretInfo, error) {
	if names.ID(ref) {
		s, err := c.keys.GetSecret(ctx, ref)
		if !errors.Is(err, keyclient.ErrNotFound) {
			return s, err
		}
	}
	for s, err := range c.keys.Secrets(ctx) {
		if err != nil {
			return keyapi.SecretInfo{}, err
		}
		if s.Name == ref && s.SupersededBy == "" {
			return c.keys.GetSecret(ctx, s.VolumeID)
		}
	}
	return keyapi.SecretInfo{}, noVolume(ref)
}

func state(s keyapi.SecretEntry) string {
	switch {
	case s.Revoked:
		return "revoked"
	case s.PolicyVoid:
		return "closed: set its policy again"
	case time.Now().After(s.Expires):
		return "expired"
	case s.SupersededBy != "" && s.PinVersion:
		return "superseded, pinned"
	case s.SupersededBy != "":
		return "superseded"
	}
	return "open"
}

func listSecrets(a *app, all iter.Seq2[keyapi.SecretEntry, error]) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VOLUME\tNAME\tKIND\tSIZE\tCREATED\tRELEASED\tSTATE")
	for s, err := range all {
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.VolumeID, text.Printable(s.Name), s.Kind, text.Size(s.Size),
			s.Created.Local().Format(time.DateTime), s.Released, state(s))
	}
	return w.Flush()
}

func showSecret(a *app, s keyapi.SecretInfo) error {
	p := s.Policy
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, v ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, v...)) }
	list := func(name string, l []string) {
		if len(l) > 0 {
			row(name, "%s", strings.Join(l, ", "))
		}
	}
	row("volume", "%s", s.VolumeID)
	row("name", "%s", text.Printable(s.Name))
	row("digest", "%s", s.Digest)
	row("state", "%s", state(s.Entry()))
	list("users", p.Users)
	list("groups", p.Groups)
	list("compute nodes", p.Nodes)
	list("clusters", p.Clusters)
	list("accounts", p.Accounts)
	list("partitions", p.Partitions)
	row("least tier", "%s", p.Tier)
	if p.Evidence != "" {
		row("evidence", "%s only", p.Evidence)
	}
	row("expires", "%s", p.Expires.Local().Format(time.DateTime))
	limit := "no limit"
	if p.Releases > 0 {
		limit = fmt.Sprint(p.Releases)
	}
	row("released", "%d of %s", s.Released, limit)
	row("host binds", "%t", p.HostBinds)
	row("network", "%s", cmp.Or(p.Network, "any"))
	return w.Flush()
}
