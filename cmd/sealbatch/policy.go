package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// policyWord is what sealbatch policy does by one word.
type policyWord struct {
	flags []string // that go with it, by their longest names
	many  bool     // any number of volumes may follow, or a flag stands for them
	run   func(ctx context.Context, c *client, args []string, o policyOptions) error
}

// policyOptions are the flags of sealbatch policy.
type policyOptions struct {
	policyFlags
	endFlags
	all    bool     // renew the policies of all volumes
	named  []string // the flags that were given, by their longest names
	asJSON bool
}

// given reports whether a flag was.
func (o policyOptions) given(flag string) bool { return slices.Contains(o.named, flag) }

var policyWords = map[string]policyWord{
	"list": {many: true, run: func(ctx context.Context, c *client, _ []string, _ policyOptions) error {
		return listSecrets(c.a, c.keys.Secrets(ctx))
	}},
	"show": {run: onSecret(func(_ *client, _ context.Context, s keyapi.SecretInfo, _ policyOptions) (keyapi.SecretInfo, error) {
		return s, nil
	})},
	"log": {flags: []string{"json"}, run: func(ctx context.Context, c *client, args []string, o policyOptions) error {
		return c.showLog(ctx, args[0], o.asJSON)
	}},
	"set":    {flags: append(settable, "yes"), run: onSecret((*client).setPolicy)},
	"add":    {flags: append(listFlags(), "yes"), run: onSecret((*client).addToPolicy)},
	"remove": {flags: append(listFlags(), "yes"), run: onSecret((*client).removeFromPolicy)},
	"renew": {flags: []string{"all", "yes"}, many: true, run: func(ctx context.Context, c *client, args []string, o policyOptions) error {
		return c.renew(ctx, args, o)
	}},
	"revoke": {flags: []string{"yes"}, run: onSecret((*client).revoke)},
	"delete": {flags: []string{"yes", "superseded"}, run: func(ctx context.Context, c *client, args []string, o policyOptions) error {
		return c.remove(ctx, args[0], o.endFlags)
	}},
}

// settable are the flags of a policy's parts.
var settable = slices.Concat(listFlags(), []string{"tier", "evidence", "expires", "releases", "allow-host-binds", "network", "pin-version"})

// listFlags returns the flags of a policy's lists.
func listFlags() (names []string) {
	for _, l := range policyLists {
		names = append(names, l.flag)
	}
	return names
}

// onSecret returns a word's work on one volume, which is shown as it is afterwards.
func onSecret(do func(*client, context.Context, keyapi.SecretInfo, policyOptions) (keyapi.SecretInfo, error),
) func(context.Context, *client, []string, policyOptions) error {
	return func(ctx context.Context, c *client, args []string, o policyOptions) error {
		s, err := c.findSecret(ctx, args[0])
		if err != nil {
			return err
		}
		if s, err = do(c, ctx, s, o); err != nil {
			return err
		}
		return showSecret(c.a, s)
	}
}

func runPolicy(ctx context.Context, a *app, args []string) error {
	const what = `Show, change or revoke who may open your volumes, and see who did.
set changes what is named and nothing else; add and remove change lists: users, groups, nodes, clusters, accounts, partitions.
What was changed is printed, old -> new. renew is for a new SSH key of yours: it sets policies again as they are, and
signs info files at the site anew, so that nothing rests on the old key.`
	f := ui.NewFlags("sealbatch policy", what,
		"list | show VOLUME | log VOLUME | set VOLUME | add VOLUME | remove VOLUME |\n"+
			"       renew VOLUME|INFO-FILE... | revoke VOLUME | delete VOLUME", `
sealbatch policy list
sealbatch policy show encrypted_jp2a_input.tgz
sealbatch policy log encrypted_jp2a_input.tgz
sealbatch policy set 9c1f... --expires 30d --releases 0
sealbatch policy add encrypted_jp2a_input.tgz -u colleague
sealbatch policy remove encrypted_jp2a_input.tgz -c nid003044
sealbatch policy renew --all
sealbatch policy renew /scratch/project_1/etellier/encrypted_jp2a_input.tgz.info.yaml
sealbatch policy revoke 9c1f...
sealbatch policy delete --superseded encrypted_jp2a_input.tgz`)
	var cf clientFlags
	var o policyOptions
	cf.add(f)
	o.endFlags.add(f)
	o.policyFlags.addOptional(f)
	f.Bool(&o.all, "with renew: the policies of all your volumes", []string{"all"})
	f.Bool(&o.asJSON, "with log: print JSON", []string{"json"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	o.named = f.Given()
	word, err := policyWordOf(f.Args(), o.named)
	if err != nil {
		return err
	}
	c, err := loadClient(ctx, a, cf)
	if err != nil {
		return err
	}
	return word.run(ctx, c, f.Args()[1:], o)
}

// policyWordOf returns what words ask for, with the flags that were given beside them.
func policyWordOf(words, named []string) (policyWord, error) {
	known := strings.Join(slices.Sorted(maps.Keys(policyWords)), ", ")
	const hint = "sealbatch policy --help shows an example"
	if len(words) == 0 {
		return policyWord{}, usageError("sealbatch policy: what is to be done? It is one of "+known, hint)
	}
	word, ok := policyWords[words[0]]
	switch {
	case !ok:
		return word, usageError(fmt.Sprintf("sealbatch policy: unknown word %.40q: it is one of %s", words[0], known), hint)
	case words[0] == "list" && len(words) > 1:
		return word, usageError("sealbatch policy list takes no VOLUME", "sealbatch policy show shows one")
	case !word.many && len(words) != 2:
		return word, usageError("sealbatch policy "+words[0]+" takes one VOLUME, by its id or name", "sealbatch policy list shows them")
	}
	for _, flag := range named {
		if flag != "config" && flag != "username" && !slices.Contains(word.flags, flag) {
			return word, usageError("--"+flag+" does not go with sealbatch policy "+words[0], hint)
		}
	}
	return word, nil
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

// shownID is how many digits of a volume's id a narrow terminal shows: enough to name it by.
const shownID = 12

// minIDPrefix is how many digits of a volume's id name it, if no other's begins with them.
const minIDPrefix = 4

// findSecret takes a volume id, its first digits, or a name; of several versions of a name, the
// one that is in force.
func (c *client) findSecret(ctx context.Context, ref string) (keyapi.SecretInfo, error) {
	if id := strings.ToLower(ref); names.ID(id) {
		s, err := c.keys.GetSecret(ctx, id)
		if !errors.Is(err, keyclient.ErrNotFound) {
			return s, err
		}
	}
	all, byID, err := c.secretsNamed(ctx, ref)
	if err != nil {
		return keyapi.SecretInfo{}, err
	}
	var found []keyapi.SecretEntry
	for _, s := range all {
		if s.SupersededBy == "" || byID {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return keyapi.SecretInfo{}, noVolume(ref)
	case 1:
		return c.keys.GetSecret(ctx, found[0].VolumeID)
	}
	return keyapi.SecretInfo{}, severalVolumes(ref, found)
}

// secretsNamed returns one's volumes of a name, or else (byID) those whose ids begin with ref.
func (c *client) secretsNamed(ctx context.Context, ref string) (found []keyapi.SecretEntry, byID bool, err error) {
	var ids []keyapi.SecretEntry
	for s, err := range c.keys.Secrets(ctx) {
		if err != nil {
			return nil, false, err
		}
		if isCalled(s, ref) {
			found = append(found, s)
		}
		if len(ref) >= minIDPrefix && strings.HasPrefix(s.VolumeID, strings.ToLower(ref)) {
			ids = append(ids, s)
		}
	}
	if found == nil {
		return ids, true, nil
	}
	return found, false, nil
}

// isCalled reports whether people mean a volume by ref: it has its name, its sealed file's or its info file's, with or
// without a directory.
func isCalled(s keyapi.SecretEntry, ref string) bool {
	return ref == s.Name || strings.TrimSuffix(path.Base(ref), publish.InfoSuffix) == s.File
}

// called returns how people are told of a volume.
func called(s keyapi.SecretEntry) string { return text.Printable(keyapi.Called(s.Name, s.File)) }

func severalVolumes(ref string, found []keyapi.SecretEntry) error {
	var ids []string
	for _, s := range found {
		ids = append(ids, s.VolumeID+" ("+called(s)+")")
	}
	return usageError(fmt.Sprintf("you have %d volumes of the name %.80q, or of ids that begin so", len(ids), ref),
		"give the id of one, or its file: "+strings.Join(ids, ", "))
}

func state(s keyapi.SecretEntry) string {
	switch {
	case s.Revoked:
		return "revoked"
	case s.PolicyVoid:
		return "closed: renew its policy"
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
	table := ui.NewTable(ui.Column{Head: "VOLUME", Short: shownID}, ui.Column{Head: "NAME", Wrap: true},
		ui.Column{Head: "FILE", Wrap: true, Drop: 1}, ui.Column{Head: "KIND", Drop: 3}, ui.Column{Head: "SIZE", Drop: 2},
		ui.Column{Head: "CREATED", Short: len(time.DateOnly)}, ui.Column{Head: "RELEASED", Drop: 4},
		ui.Column{Head: "STATE", Wrap: true})
	for s, err := range all {
		if err != nil {
			return err
		}
		table.Row(s.VolumeID, s.Name, s.File, string(s.Kind), text.Size(s.Size), s.Created.Local().Format(time.DateTime),
			fmt.Sprint(s.Released), state(s))
	}
	return table.Print(a.stdout)
}

// policyField is a part of a policy in words. An empty value is the default, which
// without names in full.
type policyField struct{ name, value, without string }

func policyFields(p manifest.Policy) []policyField {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return ""
	}
	var fields []policyField
	for _, l := range policyLists {
		without := "none"
		if l.open {
			without = "any"
		}
		fields = append(fields, policyField{l.what, strings.Join(*l.of(&p), ", "), without})
	}
	evidence, releases, expires := "", "", p.Expires.Local().Format(time.DateTime)
	if p.Evidence != "" {
		evidence = p.Evidence + " only"
	}
	if p.Releases > 0 {
		releases = fmt.Sprint(p.Releases)
	}
	if p.Expires.Equal(manifest.Never) {
		expires = "never"
	}
	return append(fields, policyField{"least tier", p.Tier.String(), ""}, policyField{"evidence", evidence, "any"},
		policyField{"expires", expires, ""}, policyField{"releases", releases, "no limit"},
		policyField{"host binds", yes(p.HostBinds), "no"}, policyField{"network", p.Network, "any"},
		policyField{"pinned", yes(p.PinVersion), "no"})
}

func showSecret(a *app, s keyapi.SecretInfo) error {
	table := ui.NewTable(ui.Column{}, ui.Column{Wrap: true})
	row := func(name, value string) { table.Row(name, value) }
	row("volume", s.VolumeID)
	row("name", s.Name)
	row("file", s.File)
	row("digest", s.Digest.String())
	if !s.Image.IsZero() {
		row("image", s.Image.String())
	}
	row("state", state(s.Entry()))
	for _, f := range policyFields(s.Policy) {
		switch {
		case f.name == "releases":
			row("released", fmt.Sprintf("%d of %s", s.Released, cmp.Or(f.value, f.without)))
		case f.value != "" || f.name == "host binds" || f.name == "network":
			row(f.name, cmp.Or(f.value, f.without))
		}
	}
	return table.Print(a.stdout)
}
