package slurm

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/hostlist"
)

// Partition is what slurmctld says of a partition, as far as it decides which jobs may ever run there.
type Partition struct {
	Name     string
	Default  bool
	State    string        // UP, DOWN, DRAIN or INACTIVE
	MaxTime  time.Duration // 0 for none
	Usual    time.Duration // what jobs get that name no limit; 0 for MaxTime
	MinNodes int
	MaxNodes int    // 0 for no limit
	Total    int    // nodes that it has
	Nodes    string // a host list
	// Accounts and QOS are what may use it, nil for all; those that are denied may not.
	Accounts, QOS, DeniedAccounts, DeniedQOS []string
}

// Partitions returns all partitions that Slurm shows.
func (c Commands) Partitions(ctx context.Context) ([]Partition, error) {
	text, err := c.run(ctx, nil, "scontrol", "-a", "-o", "show", "partition")
	if err != nil {
		return nil, err
	}
	return parsePartitions(text)
}

// parsePartitions reads lines of KEY=VALUE words, which only administrators write.
func parsePartitions(text []byte) (all []Partition, err error) {
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("%w: scontrol's answer is longer than %d bytes", ErrSlurm, maxAnswer)
	}
	for line := range bytes.Lines(text) {
		fields := map[string]string{}
		for _, word := range strings.Fields(string(line)) {
			if key, value, ok := strings.Cut(word, "="); ok {
				fields[key] = value
			}
		}
		if fields["PartitionName"] == "" {
			continue // an empty line
		}
		p := Partition{Name: fields["PartitionName"], Default: fields["Default"] == "YES", State: fields["State"],
			Accounts: names(fields["AllowAccounts"]), QOS: names(fields["AllowQos"]),
			DeniedAccounts: names(fields["DenyAccounts"]), DeniedQOS: names(fields["DenyQos"]),
			Nodes: noValue(fields["Nodes"])}
		if p.MaxTime, err = ParseTime(fields["MaxTime"]); err != nil {
			return nil, fmt.Errorf("%w: partition %.80q: %w", ErrSlurm, p.Name, err)
		}
		if usual := fields["DefaultTime"]; usual != "NONE" && usual != "" {
			if p.Usual, err = ParseTime(usual); err != nil {
				return nil, fmt.Errorf("%w: partition %.80q: %w", ErrSlurm, p.Name, err)
			}
		}
		for key, n := range map[string]*int{"MinNodes": &p.MinNodes, "MaxNodes": &p.MaxNodes, "TotalNodes": &p.Total} {
			if v := fields[key]; v != "UNLIMITED" {
				if *n, err = strconv.Atoi(v); err != nil {
					return nil, fmt.Errorf("%w: partition %.80q: %s is %.40q", ErrSlurm, p.Name, key, v)
				}
			}
		}
		all = append(all, p)
	}
	return all, nil
}

func names(list string) []string {
	if list == "" || list == "ALL" || list == "(null)" {
		return nil
	}
	return strings.Split(list, ",")
}

// Chosen returns the partitions in which a job may run, of those that there are. A name of none is an error.
func (s *Script) Chosen(all []Partition) (chosen []Partition, err error) {
	if s.Partition == "" {
		for _, p := range all {
			if p.Default {
				chosen = append(chosen, p)
			}
		}
		return chosen, nil
	}
	for _, name := range strings.Split(s.Partition, ",") {
		at := slices.IndexFunc(all, func(p Partition) bool { return p.Name == name })
		if at < 0 {
			var there []string
			for _, p := range all {
				there = append(there, p.Name)
			}
			return nil, fmt.Errorf("the site has no partition %s; it has %s", name, strings.Join(there, ", "))
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

// Unfit returns why a job can never run in a partition; "" if nothing is known against it. nodes are the names in
// NodeList.
func (s *Script) Unfit(p Partition, nodes []string) string {
	limit, _ := ParseTime(s.Time) // checked before
	least := cmp.Or(s.MinNodes, s.Nodes)
	switch {
	case p.State == "DRAIN" || p.State == "INACTIVE":
		return fmt.Sprintf("partition %s takes no jobs: it is %s", p.Name, p.State)
	case s.Time != "" && p.MaxTime > 0 && (limit == 0 || limit > p.MaxTime):
		return fmt.Sprintf("--time %s is more than the %v that partition %s allows", s.Time, p.MaxTime, p.Name)
	case s.Time == "" && p.Usual > 0 && p.Usual <= s.SealTime:
		return fmt.Sprintf("partition %s gives jobs without --time %v, all of which are kept for sealing the results", p.Name, p.Usual)
	case least > p.Total:
		return fmt.Sprintf("partition %s has %d nodes, not %d", p.Name, p.Total, least)
	case p.MaxNodes > 0 && least > p.MaxNodes:
		return fmt.Sprintf("a job may have %d nodes in partition %s, not %d", p.MaxNodes, p.Name, least)
	case s.Nodes < p.MinNodes:
		return fmt.Sprintf("a job must have %d nodes in partition %s", p.MinNodes, p.Name)
	}
	hosts, err := hostlist.Parse(maxNodes, p.Nodes)
	for _, n := range nodes {
		if err == nil && !hosts.Contains(n) {
			return fmt.Sprintf("partition %s has no node %s", p.Name, n)
		}
	}
	return ""
}

// Doubtful returns what speaks against a job in a partition without deciding it; "" for nothing. An account that is below
// another has the other's rights, and a site without accounting ignores both lists.
func (s *Script) Doubtful(p Partition) string {
	open := func(name string, allowed, denied []string) bool {
		return name == "" || (allowed == nil || slices.Contains(allowed, name)) && !slices.Contains(denied, name)
	}
	switch {
	case p.State != "UP":
		return fmt.Sprintf("partition %s is %s: jobs wait there until the site opens it again", p.Name, p.State)
	case !open(s.Account, p.Accounts, p.DeniedAccounts):
		return fmt.Sprintf("partition %s does not name account %s among those that may use it", p.Name, s.Account)
	case !open(s.QOS, p.QOS, p.DeniedQOS):
		return fmt.Sprintf("partition %s does not name quality of service %s among those that may be used there", p.Name, s.QOS)
	}
	return ""
}

// Hostnames returns the names that a host list stands for, in its order, as Slurm reads it.
func (c Commands) Hostnames(ctx context.Context, list string) ([]string, error) {
	if _, err := hostlist.Parse(maxNodes, list); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSlurm, err)
	}
	text, err := c.run(ctx, nil, "scontrol", "show", "hostnames", list)
	if err != nil {
		return nil, err
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("%w: scontrol's answer is longer than %d bytes", ErrSlurm, maxAnswer)
	}
	return strings.Fields(string(text)), nil
}
