package keyserver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// maxForecastSteps bounds the work of holding nodes against host lists for one forecast, in steps of hostlist.Look: at
// worst 50 ms. It is enough for all nodes of jobs and policies that are meant; of others fewer nodes are looked at.
const maxForecastSteps = 1 << 21

// forecast is what policies say of a job that has no evidence yet. Each policy is decided once, and the nodes are held
// once against each different host list.
type forecast struct {
	ctx      context.Context
	claims   attest.Claims
	nodes    []string // sorted, each once
	steps    int      // that one host list may take
	secrets  []secretRecord
	policies map[manifest.Digest]manifest.Policy
	known    map[manifest.Digest]string // what they do not name
	unnamed  map[string]string          // by host list: a node that it does not name, "" if there is none
}

// newForecast reads the secrets' policies.
func newForecast(ctx context.Context, c attest.Claims, nodes []string, g getter, secrets []secretRecord) (*forecast, error) {
	f := &forecast{ctx: ctx, claims: c, secrets: secrets, policies: map[manifest.Digest]manifest.Policy{}, known: map[manifest.Digest]string{},
		unnamed: map[string]string{}}
	f.nodes = slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == "" })
	slices.Sort(f.nodes)
	f.nodes = slices.Compact(f.nodes)
	lists := map[string]bool{}
	for _, sec := range secrets {
		if _, ok := f.policies[sec.Policy.Digest]; ok {
			continue
		}
		p, err := policyOf(g, sec)
		if err != nil {
			return nil, err
		}
		f.policies[sec.Policy.Digest], lists[hostList(p)] = p, true
	}
	f.steps = maxForecastSteps / max(1, len(lists))
	return f, nil
}

// hostList returns a policy's host lists as one.
func hostList(p manifest.Policy) string { return strings.Join(p.Nodes, ",") }

// of returns what of the job a secret's policy does not name; "" if nothing is known.
func (f *forecast) of(s secretRecord) (why string, err error) {
	if why, ok := f.known[s.Policy.Digest]; ok {
		return why, nil
	}
	p := f.policies[s.Policy.Digest]
	if why = outsideJob(p, f.claims); why == "" {
		why, err = f.outsideNodes(p)
	}
	if err == nil {
		f.known[s.Policy.Digest] = why
	}
	return why, err
}

// otherImage returns why a job's image is none of those that a secret's policy names; "" if the image is not known.
func (f *forecast) otherImage(s secretRecord, m manifestRecord) string {
	images := f.policies[s.Policy.Digest].Images
	at := slices.IndexFunc(f.secrets, func(sec secretRecord) bool { return sec.VolumeID == m.Volumes[0].ID })
	if len(images) == 0 || at < 0 {
		return ""
	}
	return outsideImages(images, s.Owner, f.secrets[at])
}

// outsideJob returns what of a job a policy does not name, where the submitter can know it. Groups, and what Slurm
// chooses, only evidence shows.
func outsideJob(p manifest.Policy, c attest.Claims) string {
	switch {
	case p.Evidence != "" && p.Evidence != c.Attestor:
		return fmt.Sprintf("its policy accepts no evidence but of type %s, this job has %s", p.Evidence, c.Attestor)
	case len(p.Clusters) > 0 && c.Job.Cluster != "" && !slices.Contains(p.Clusters, c.Job.Cluster):
		return "its policy does not name cluster " + c.Job.Cluster
	case c.Attestor == keyapi.EvidenceToken && len(p.Accounts)+len(p.Partitions) > 0:
		return "its policy names Slurm accounts or partitions, which a one-time token does not show"
	case c.User != "" && !slices.Contains(p.Users, c.User) && (len(p.Groups) == 0 || c.Attestor == keyapi.EvidenceToken):
		return "its policy does not name user " + c.User
	case c.Account != "" && len(p.Accounts) > 0 && !slices.ContainsFunc(p.Accounts, sameAccount(c.Account)):
		return fmt.Sprintf("its policy does not name Slurm account %q", c.Account)
	case c.Partition != "" && len(p.Partitions) > 0 && !slices.Contains(p.Partitions, c.Partition):
		return fmt.Sprintf("its policy does not name partition %q", c.Partition)
	}
	return ""
}

// outsideNodes does the same for the nodes.
func (f *forecast) outsideNodes(p manifest.Policy) (string, error) {
	list := hostList(p)
	node, ok := f.unnamed[list]
	if !ok {
		var err error
		if node, err = f.findUnnamed(p); err != nil {
			return "", err
		}
		f.unnamed[list] = node
	}
	if node == "" {
		return "", nil
	}
	return fmt.Sprintf("its policy does not name node %.80q", node), nil
}

// findUnnamed returns the first node that a policy does not name, of those that there is time to look at.
func (f *forecast) findUnnamed(p manifest.Policy) (string, error) {
	hosts, anyNode, err := p.Hosts()
	if anyNode || err != nil {
		return "", err
	}
	left := f.steps
	for _, n := range f.nodes {
		if f.ctx.Err() != nil {
			return "", f.ctx.Err()
		}
		in, steps := hosts.Look(n)
		if !in {
			return n, nil
		}
		if left -= steps; left <= 0 {
			break
		}
	}
	return "", nil
}
