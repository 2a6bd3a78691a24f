package keyserver

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// checkPolicy refuses a policy that is not valid, or leaves open whose users it names:
// evidence of type slurm may come from every cluster that is ever enrolled here. Other
// evidence must be named where no cluster is.
func checkPolicy(p manifest.Policy) error {
	if err := p.Validate(); err != nil {
		return service.Refuse(keyapi.CodeBadRequest, "policy: %w", err)
	}
	if len(p.Clusters) == 0 && (p.Evidence == "" || p.Evidence == keyapi.EvidenceSlurm) {
		return service.Refuse(keyapi.CodeBadRequest, "policy: it names no cluster, and users of one name may be different people elsewhere").
			WithHint("name the cluster; where there is none yet, the policy names evidence that knows of none: %s", keyapi.EvidenceToken)
	}
	return nil
}

// checkSecret holds one secret's record and policy against what evidence
// shows. It says what is missing, for the owner's and submitter's eyes.
func checkSecret(g getter, s secretRecord, m manifestRecord, v *verdicts, now time.Time) error {
	said, err := v.of(g, s)
	if err != nil {
		return err
	}
	image, err := v.otherImage(g, s, m, said.images)
	if err != nil {
		return err
	}
	why := cmp.Or(unusable(s, v.claims, now), said.outside, image, excessive(s, m))
	if why == "" {
		return nil
	}
	return service.Refuse(keyapi.CodePolicy, "volume %s (%s): %s", keyapi.Called(s.Name, s.File), s.VolumeID, why)
}

// unusable returns why a key is released to nobody, or not on such evidence.
func unusable(s secretRecord, c attest.Claims, now time.Time) string {
	p := s.Policy
	switch {
	case s.Revoked:
		return "its key was revoked by its owner"
	case s.SupersededBy != "" && !p.PinVersion:
		return fmt.Sprintf("it was superseded by volume %s, a newer version", s.SupersededBy)
	case !now.Before(p.Expires):
		return "its policy expired at " + p.Expires.UTC().Format(time.RFC3339)
	case c.Tier < p.Tier:
		return fmt.Sprintf("its policy demands evidence of tier %s, this is %s", p.Tier, c.Tier)
	}
	return ""
}

// outside returns what of the claims a policy does not name.
func (v *verdicts) outside(p manifest.Policy) (string, error) {
	c := v.claims
	hosts, anyNode, err := p.Hosts()
	if err != nil {
		return "", err
	}
	switch {
	case p.Evidence != "" && p.Evidence != c.Attestor:
		return fmt.Sprintf("its policy accepts no evidence but of type %s, this is %s", p.Evidence, c.Attestor), nil
	case len(p.Clusters) > 0 && !slices.Contains(p.Clusters, c.Job.Cluster):
		return "its policy does not name cluster " + c.Job.Cluster, nil
	case !slices.Contains(p.Users, c.User) && !slices.ContainsFunc(p.Groups, v.inGroup):
		return fmt.Sprintf("its policy names neither user %s nor one of their groups", c.User), nil
	case !anyNode && !hosts.Contains(c.Node):
		return "its policy does not name node " + c.Node, nil
	case len(p.Accounts) > 0 && !slices.ContainsFunc(p.Accounts, sameAccount(c.Account)):
		return fmt.Sprintf("its policy does not name Slurm account %q", c.Account), nil
	case len(p.Partitions) > 0 && !slices.Contains(p.Partitions, c.Partition):
		return fmt.Sprintf("its policy does not name partition %q", c.Partition), nil
	}
	return "", nil
}

// excessive returns what a job asks beyond what a policy permits.
func excessive(s secretRecord, m manifestRecord) string {
	p := s.Policy
	switch {
	case m.HostBinds && !p.HostBinds:
		return "its policy does not permit runtime flags that may bind paths of the node"
	case p.Network == manifest.NetworkNone && m.Network != manifest.NetworkNone:
		return "its policy demands a job without a network: job-prep --network none"
	case p.Releases > 0 && s.Released >= p.Releases:
		return fmt.Sprintf("its key was released %d times, which is all that its policy permits", s.Released)
	}
	return ""
}

func (v *verdicts) inGroup(name string) bool { return v.groups[name] }

// sameAccount returns what reports whether a name is that of a Slurm account. Slurm keeps their names in lower case,
// however users and policies write them.
func sameAccount(account string) func(name string) bool {
	return func(name string) bool { return strings.EqualFold(name, account) }
}
