package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sealbatch/sealbatch/internal/hostlist"
	"github.com/sealbatch/sealbatch/internal/names"
)

// Policy says who may open a volume. It lives with the key in the key service
// and is the owner's alone; the copy in an info file only informs.
//
// A release must satisfy every part: (one of Users or one of Groups), one of
// Nodes, at least Tier, before Expires, within Releases, and, where given, one
// of Clusters, Evidence, one of Accounts, one of Partitions and one of Images.
type Policy struct {
	// Users and Groups are Unix names at the site. At least one
	// name must be given over both.
	Users  []string `json:"users,omitempty" yaml:"users,omitempty"`
	Groups []string `json:"groups,omitempty" yaml:"groups,omitempty"`
	// Nodes are host lists in Slurm's syntax, such as "cn[1-4]", of maxHostParts
	// names and ranges in all. "*" alone means any node of the cluster.
	Nodes []string `json:"compute_nodes" yaml:"compute_nodes"`
	// Tier is the weakest evidence that is accepted.
	Tier Tier `json:"tier" yaml:"tier"`
	// Expires is the moment from which nothing is released; Never for none.
	Expires time.Time `json:"expires" yaml:"expires"`
	// Releases limits how often the key is released in all; 0 is no limit.
	Releases int `json:"releases,omitempty" yaml:"releases,omitempty"`
	// Clusters, by their names at the key service, are where Users, Groups and
	// Nodes are meant: on another cluster somebody else may have that name.
	// The key service takes a policy without only where it names Evidence that is of
	// no cluster.
	Clusters []string `json:"clusters,omitempty" yaml:"clusters,omitempty"`
	// Evidence is the only type of evidence that is accepted; empty for any.
	Evidence string `json:"evidence,omitempty" yaml:"evidence,omitempty"`
	// Accounts and Partitions limit the Slurm accounts and partitions.
	Accounts   []string `json:"accounts,omitempty" yaml:"accounts,omitempty"`
	Partitions []string `json:"partitions,omitempty" yaml:"partitions,omitempty"`
	// Images are the container images with which alone the volume may be opened: digests
	// of images that the volume's owner sealed, as the owner said then, and ids of sealed
	// images, whoever sealed them. Empty for any.
	Images []string `json:"images,omitempty" yaml:"images,omitempty"`
	// HostBinds permits runtime flags that bind paths of the node into the
	// container.
	HostBinds bool `json:"host_binds,omitempty" yaml:"host_binds,omitempty"`
	// Network is NetworkNone if no job may have a network that gets the key; empty
	// for any.
	Network string `json:"network,omitempty" yaml:"network,omitempty"`
	// PinVersion keeps this version's key releasable after a newer volume
	// of the same name has been registered.
	PinVersion bool `json:"pin_version,omitempty" yaml:"pin_version,omitempty"`
}

// Never is the Expires of a policy without an end: the last second that RFC 3339 can name.
var Never = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// MaxPolicy bounds a policy as JSON, in bytes. The key service reads those of a
// release's volumes for each node, so that their size is a cost to others. It has
// room for hundreds of names; groups and host lists stand for many more.
const MaxPolicy = 16 << 10

// Bounds: names in one list, bytes in one name or host list, and what all host lists
// may have between commas, since every release is held against each.
const (
	maxPolicyNames = 1024
	maxPolicyName  = 4096
	maxHostParts   = 64
)

// Hosts returns the nodes that p names, parsed, or whether that is any node.
func (p Policy) Hosts() (hosts hostlist.List, anyNode bool, err error) {
	if slices.Equal(p.Nodes, []string{"*"}) {
		return hosts, true, nil
	}
	if hosts, err = hostlist.Parse(maxHostParts, p.Nodes...); err != nil {
		return hosts, false, fmt.Errorf("%w: compute nodes (at most %d names and ranges): %w", ErrInvalid, maxHostParts, err)
	}
	return hosts, false, nil
}

// Encode returns p as JSON, and the digest of these bytes.
func (p Policy) Encode() ([]byte, Digest, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, Digest{}, fmt.Errorf("policy: %w", err)
	}
	return b, DigestOf(b), nil
}

// Validate reports the first thing that is wrong with p.
func (p Policy) Validate() error {
	if len(p.Users)+len(p.Groups) == 0 {
		return fmt.Errorf("%w: policy names no user and no group", ErrInvalid)
	}
	if len(p.Nodes) == 0 {
		return fmt.Errorf("%w: policy names no compute node", ErrInvalid)
	}
	for _, l := range []struct {
		what  string
		list  []string
		valid func(string) bool
	}{
		{"user", p.Users, names.Unix}, {"group", p.Groups, names.Unix},
		{"cluster", p.Clusters, names.Word}, {"account", p.Accounts, names.Word}, {"partition", p.Partitions, names.Word},
		{"container image", p.Images, ValidImagePin},
		{"compute node", p.Nodes, func(string) bool { return true }},
	} {
		if len(l.list) > maxPolicyNames {
			return fmt.Errorf("%w: policy names more than %d %ss", ErrInvalid, maxPolicyNames, l.what)
		}
		for _, n := range l.list {
			if len(n) > maxPolicyName || !l.valid(n) {
				return fmt.Errorf("%w: %.80q is not a valid %s name", ErrInvalid, n, l.what)
			}
		}
	}
	if _, _, err := p.Hosts(); err != nil {
		return err
	}
	if p.Evidence != "" && !attestTypeRE.MatchString(p.Evidence) {
		return fmt.Errorf("%w: %.40q is not a type of evidence", ErrInvalid, p.Evidence)
	}
	if _, ok := tierNames[p.Tier]; !ok {
		return fmt.Errorf("%w: policy has no minimum tier", ErrInvalid)
	}
	if p.Expires.IsZero() {
		return fmt.Errorf("%w: policy has no expiry", ErrInvalid)
	}
	if err := validNetwork(p.Network); err != nil {
		return err
	}
	if p.Releases < 0 {
		return fmt.Errorf("%w: number of releases is negative", ErrInvalid)
	}
	return p.validateSize()
}

func (p Policy) validateSize() error {
	b, _, err := p.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(b) > MaxPolicy {
		return fmt.Errorf("%w: policy of %d bytes, more than %d: name groups instead of users, ranges instead of nodes",
			ErrInvalid, len(b), MaxPolicy)
	}
	return nil
}
