package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/text"
)

// setPolicy changes what the flags name of a volume's policy.
func (c *client) setPolicy(ctx context.Context, s keyapi.SecretInfo, o policyOptions) (keyapi.SecretInfo, error) {
	return c.changePolicy(ctx, s, o, func(p *manifest.Policy) error {
		if err := o.policyFlags.set(p, o.given, time.Now()); err != nil {
			return err
		}
		if len(p.Clusters) == 0 && (p.Evidence == "" || p.Evidence == keyapi.EvidenceSlurm) {
			return c.ofCluster(ctx, p)
		}
		return nil
	})
}

// addToPolicy adds the names that the flags hold to the lists of a volume's policy.
func (c *client) addToPolicy(ctx context.Context, s keyapi.SecretInfo, o policyOptions) (keyapi.SecretInfo, error) {
	return c.changePolicy(ctx, s, o, func(p *manifest.Policy) error {
		return eachList(p, o, func(l policyList, have, more []string) ([]string, error) {
			if len(have) == 0 && l.open || slices.Equal(have, []string{"*"}) {
				return nil, fmt.Errorf("%s: any may open it already; set --%s has only those open it that it names", l.what, l.flag)
			}
			for _, name := range more {
				if !slices.Contains(have, name) {
					have = append(have, name)
				}
			}
			return have, nil
		})
	})
}

// removeFromPolicy removes the names that the flags hold.
func (c *client) removeFromPolicy(ctx context.Context, s keyapi.SecretInfo, o policyOptions) (keyapi.SecretInfo, error) {
	return c.changePolicy(ctx, s, o, func(p *manifest.Policy) error {
		return eachList(p, o, func(l policyList, have, less []string) ([]string, error) {
			for _, name := range less {
				at := slices.Index(have, name)
				if at < 0 {
					return nil, notInList(l, have, name)
				}
				have = slices.Delete(have, at, at+1)
			}
			if len(have) == 0 && l.open {
				return nil, fmt.Errorf("%s: without the last of them any could open it; set --%s names others", l.what, l.flag)
			}
			return have, nil
		})
	})
}

// notInList says why a name cannot be removed: a policy's list does not have it as such.
func notInList(l policyList, have []string, name string) error {
	if l.flag == "compute-nodes" {
		hosts, any, err := manifest.Policy{Nodes: have}.Hosts()
		if err == nil && (any || hosts.Contains(name)) {
			return fmt.Errorf("%s: %s is not named by itself, but in %s; set -c names those that remain",
				l.what, name, strings.Join(have, ","))
		}
	}
	return fmt.Errorf("%s: the policy does not name %s", l.what, name)
}

// eachList changes the lists of p whose flags were given.
func eachList(p *manifest.Policy, o policyOptions, change func(l policyList, have, given []string) ([]string, error)) error {
	for _, l := range policyLists {
		if !o.given(l.flag) {
			continue
		}
		list, err := change(l, slices.Clone(*l.of(p)), l.from(&o.policyFlags))
		if err != nil {
			return fault.New(fault.Usage, err, "sealbatch policy show shows what the policy names")
		}
		*l.of(p) = list
	}
	return validPolicy(*p)
}

// changePolicy changes a volume's policy from what it is, says how, and has it set if
// nobody else changed it meanwhile.
func (c *client) changePolicy(ctx context.Context, s keyapi.SecretInfo, o policyOptions, change func(*manifest.Policy) error,
) (keyapi.SecretInfo, error) {
	if !slices.ContainsFunc(o.named, isPolicyFlag) {
		return s, usageError("nothing is named that should change", "name it by a flag, such as --expires 30d; what is not named stays")
	}
	if s.Revoked {
		return s, revoked(s)
	}
	p := s.Policy
	if err := change(&p); err != nil {
		return s, err
	}
	if fields := changedFields(s.Policy, p); len(fields) > 0 || s.PolicyVoid {
		printFields(c.a.stderr, fields)
	} else {
		fmt.Fprintln(c.a.stderr, "nothing changes: the policy says that already")
		return s, nil
	}
	if err := c.confirmVoid(ctx, s, o.yes); err != nil {
		return s, err
	}
	before, err := c.keys.SecretJobs(ctx, s.VolumeID)
	if err != nil {
		return s, err
	}
	if s, err = c.keys.ReplacePolicy(ctx, s.VolumeID, s.PolicyDigest, p); err != nil {
		return s, err
	}
	c.noteUseless(s)
	return s, c.noteShutOut(ctx, s.VolumeID, before)
}

// noteUseless says what keeps a policy from opening a volume to anybody.
func (c *client) noteUseless(s keyapi.SecretInfo) {
	if s.SupersededBy != "" && !s.Policy.PinVersion {
		fmt.Fprintf(c.a.stderr, "note: nobody gets this volume's key all the same: %s, a newer version, superseded it; --pin-version opens it\n",
			text.Printable(s.SupersededBy))
	}
	if limit := s.Policy.Releases; limit > 0 && s.Released >= limit {
		fmt.Fprintf(c.a.stderr, "note: nobody gets this volume's key all the same: it was released %d times already\n", s.Released)
	}
}

func isPolicyFlag(name string) bool { return slices.Contains(settable, name) }

func revoked(s keyapi.SecretInfo) error {
	return fault.New(fault.Key, fmt.Errorf("volume %s (%s) was revoked: its key is destroyed, and no policy opens it again",
		s.VolumeID, called(s.Entry())), "publish the data again: they get a new volume, with a policy of its own")
}

// confirmVoid asks before a policy gets the word of another key as a whole: what stays
// of it was set by one that does not count any more, perhaps because it was stolen.
func (c *client) confirmVoid(ctx context.Context, s keyapi.SecretInfo, yes bool) error {
	if !s.PolicyVoid {
		return nil
	}
	var b strings.Builder
	for _, f := range policyFields(s.Policy) {
		fmt.Fprintf(&b, "  %s: %s\n", f.name, text.Printable(cmp.Or(f.value, f.without)))
	}
	return c.a.confirm(ctx, yes, fmt.Sprintf("The policy of %s (%s) counts no more: the key that set it is not enrolled any more (%s), "+
		"or the administrator withdrew it.\nWhat is not changed of it stays as that key set it:\n%s", called(s.Entry()), s.VolumeID,
		s.PolicyKey, &b), "look at the policy (sealbatch policy show); --yes sets it again without a question")
}

// changedField is a part of a policy before and after.
type changedField struct{ name, was, is string }

func changedFields(before, after manifest.Policy) (out []changedField) {
	is := policyFields(after)
	for i, was := range policyFields(before) {
		if was.value != is[i].value {
			out = append(out, changedField{was.name, cmp.Or(was.value, was.without), cmp.Or(is[i].value, is[i].without)})
		}
	}
	return out
}

func printFields(w io.Writer, fields []changedField) {
	for _, f := range fields {
		fmt.Fprintf(w, "%s: %s -> %s\n", f.name, text.Printable(f.was), text.Printable(f.is))
	}
}
