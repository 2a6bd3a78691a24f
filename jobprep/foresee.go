package jobprep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/slurm"
)

const hintForce = "change that, or submit it all the same with --force"

// foresee refuses a job of which Slurm's own answers say that it would never run, and notes what it would wait for. What
// Slurm does not answer is left to sbatch.
func (p *planned) foresee(ctx context.Context) error {
	s := &p.o.Script
	if s.NodeList != "" {
		nodes, err := p.d.Slurm.Hostnames(ctx, s.NodeList)
		if err != nil {
			p.d.Log.Debug("the names of --nodelist are not known", "error", err)
		}
		p.nodes = nodes
	}
	unmet, err := s.Unmet(ctx, p.d.Slurm)
	if err != nil {
		p.d.Log.Debug("the jobs of --dependency are not known", "error", err)
	}
	if unmet != "" && !p.o.Force {
		return fault.New(fault.Slurm, errors.New(unmet), hintForce)
	}
	defer p.warnOfDefaults()
	all, err := p.d.Slurm.Partitions(ctx)
	if err != nil || len(all) == 0 {
		p.d.Log.Debug("the site's partitions are not known", "error", err)
		return nil
	}
	chosen, err := s.Chosen(all)
	if err != nil {
		return fault.New(fault.Slurm, err, "choose one of them with --partition")
	}
	p.chooseSealTime(chosen...)
	if len(chosen) == 1 {
		p.partition = chosen[0].Name
	}
	if why := p.unfit(chosen); why != "" && !p.o.Force {
		return fault.New(fault.Slurm, errors.New(why), hintForce)
	}
	if why := p.foreign(ctx, chosen); why != "" && !p.o.Force {
		return fault.New(fault.Slurm, errors.New(why), hintPlatform)
	}
	p.warnOfNodes(ctx, chosen)
	return nil
}

// warnOfDefaults warns if it is left to Slurm whether the job gets an account and a partition that the owners name, by
// their info files.
func (p *planned) warnOfDefaults() {
	for _, i := range p.volumes {
		for _, c := range []struct {
			chosen, what, flag string
			allowed            []string
		}{
			{p.o.Script.Account, "Slurm accounts", "--account", i.Policy.Accounts},
			{p.partition, "partitions", "--partition", i.Policy.Partitions},
		} {
			if c.chosen == "" && len(c.allowed) > 0 {
				p.d.Log.Warn(fmt.Sprintf("%s may be opened by jobs of the %s %s alone: choose with %s", i.Name, c.what,
					strings.Join(c.allowed, ", "), c.flag))
			}
		}
	}
}

// unfit returns why a job can run in none of its partitions. It says what is doubtful about the one in which it may.
func (p *planned) unfit(chosen []slurm.Partition) (first string) {
	for _, c := range chosen {
		why := p.o.Script.Unfit(c, p.nodes)
		if why == "" {
			if doubt := p.o.Script.Doubtful(c); doubt != "" {
				p.d.Log.Warn(doubt)
			}
			return ""
		}
		if first == "" {
			first = why
		}
	}
	return first
}

// warnOfNodes warns if Slurm may give the job nodes on which a volume is not to be opened, by its info file.
func (p *planned) warnOfNodes(ctx context.Context, chosen []slurm.Partition) {
	// Of a --nodelist Slurm gives every node, and others to those as long as the job has asked for more.
	if all := p.o.Script.NodeList != "" && len(p.nodes) >= p.o.Script.Nodes; all || len(chosen) != 1 {
		return
	}
	var nodes []string // of the partition, once they are needed
	for _, i := range p.volumes {
		hosts, any, err := i.Policy.Hosts()
		if any || err != nil {
			continue
		}
		if nodes == nil {
			if nodes, err = p.d.Slurm.Hostnames(ctx, chosen[0].Nodes); err != nil {
				p.d.Log.Debug("the partition's nodes are not known", "error", err)
				return
			}
		}
		if slices.ContainsFunc(nodes, func(n string) bool { return !hosts.Contains(n) }) {
			p.d.Log.Warn(fmt.Sprintf("%s may be opened on %s alone, and on other nodes of partition %s the job gets no key: "+
				"choose nodes with --nodelist", i.Name, strings.Join(i.Policy.Nodes, ","), chosen[0].Name))
		}
	}
}

// until returns when the job's keys cease to be released to it, by the manifest, the info files and what tokens last.
func (p *planned) until(m manifest.Manifest) time.Time {
	until := m.Expires
	for _, i := range p.volumes {
		if i.Policy.Expires.Before(until) {
			until = i.Policy.Expires
		}
	}
	if tokens := time.Now().Add(keyapi.TokenTTL); m.Attest.Type == keyapi.EvidenceToken && tokens.Before(until) {
		until = tokens
	}
	return until
}

// expect is what the key service is told of the job beside its manifest: of very many nodes, as many as it takes.
func (p *planned) expect() keyapi.Expect {
	nodes := slices.Clone(p.nodes[:min(len(p.nodes), keyapi.MaxExpectedNodes)])
	return keyapi.Expect{Account: p.o.Script.Account, Partition: p.partition, Nodes: nodes}
}
