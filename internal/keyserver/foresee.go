package keyserver

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// maxExpectedNodes bounds an expectation's nodes.
const maxExpectedNodes = 1 << 12

// foresee refuses a manifest whose job would get no key as things are, where that can be known before there is evidence:
// a job would wait in the queue for nothing. It looks at a snapshot, and decides nothing: the release does.
func (s *Server) foresee(q *request, m manifest.Manifest, rec manifestRecord, e keyapi.Expect) error {
	if len(e.Nodes) > maxExpectedNodes {
		return service.Refuse(keyapi.CodeBadRequest, "%d expected nodes", len(e.Nodes))
	}
	claims := attest.Claims{Attestor: m.Attest.Type, Tier: s.likelyTier(m), Account: e.Account, Partition: e.Partition}
	switch claims.Job.Cluster = m.Cluster; m.Attest.Type {
	case keyapi.EvidenceSlurm:
		claims.User = m.User
	case keyapi.EvidenceToken:
		claims.User = rec.Submitter // and it shows nothing else
	}
	if claims.Tier < s.minTier {
		return service.Refuse(keyapi.CodePolicy, "this key service releases nothing below tier %s, the evidence would be of tier %s",
			s.minTier, claims.Tier)
	}
	return s.store.View(q.ctx, func(r store.Reader) error {
		for _, v := range rec.Volumes {
			var sec secretRecord
			err := getJSON(r, bucketSecrets, v.ID, &sec)
			if errors.Is(err, store.ErrNotFound) || err == nil && sec.Digest != v.Digest {
				continue // registering refuses it
			}
			if err != nil {
				return err
			}
			if err := s.foreseeSecret(r, sec, rec, claims, e.Nodes); err != nil {
				return err
			}
		}
		return nil
	})
}

// likelyTier returns what the evidence that a manifest names can reach here; the highest where that is not known.
func (s *Server) likelyTier(m manifest.Manifest) manifest.Tier {
	switch m.Attest.Type {
	case keyapi.EvidenceToken:
		return manifest.TierC
	case keyapi.EvidenceSlurm:
		var d keyapi.Service
		if a, ok := s.attestors[keyapi.EvidenceSlurm].(attest.Describer); ok {
			a.Describe(&d, &keyapi.Attestor{})
		}
		best := manifest.TierC
		for _, c := range d.Clusters {
			if m.Cluster == "" || c.Name == m.Cluster {
				best = max(best, c.Tier)
			}
		}
		return best
	}
	return manifest.TierA
}

func (s *Server) foreseeSecret(g getter, sec secretRecord, m manifestRecord, c attest.Claims, nodes []string) error {
	refuse := func(why, hint string) error {
		return service.Refuse(keyapi.CodePolicy, "volume %s (%s): %s", sec.Name, sec.VolumeID, why).WithHint("%s", hint)
	}
	if why := unusable(sec, c, s.now()); why != "" {
		hint := "ask its owner"
		if sec.SupersededBy != "" {
			hint = "use the newer volume's info file, or ask its owner to pin this version"
		}
		return refuse(why, hint)
	}
	p, err := policyOf(g, sec)
	if err != nil {
		return err
	}
	why, err := foreseeable(p, c, nodes)
	if err != nil {
		return err
	}
	if why != "" {
		return refuse(why, "ask its owner to name it: sealbatch policy set")
	}
	if why := excessive(sec, m); why != "" {
		return refuse(why, "")
	}
	if left := sec.Policy.Releases - sec.Released; sec.Policy.Releases > 0 && left < m.Nodes {
		return refuse(fmt.Sprintf("its key may be released %d times more, and each of the job's %d nodes needs it", left, m.Nodes),
			"ask its owner for more: sealbatch policy set --releases")
	}
	return s.standsPolicy(g, sec)
}

// foreseeable returns what of a job a policy does not name, where the submitter can know it. Groups, and what Slurm
// chooses, only evidence shows.
func foreseeable(p manifest.Policy, c attest.Claims, nodes []string) (string, error) {
	hosts, anyNode, err := p.Hosts()
	if err != nil {
		return "", err
	}
	switch {
	case p.Evidence != "" && p.Evidence != c.Attestor:
		return fmt.Sprintf("its policy accepts no evidence but of type %s, this job has %s", p.Evidence, c.Attestor), nil
	case len(p.Clusters) > 0 && c.Job.Cluster != "" && !slices.Contains(p.Clusters, c.Job.Cluster):
		return "its policy does not name cluster " + c.Job.Cluster, nil
	case c.Attestor == keyapi.EvidenceToken && len(p.Accounts)+len(p.Partitions) > 0:
		return "its policy names Slurm accounts or partitions, which a one-time token does not show", nil
	case c.User != "" && !slices.Contains(p.Users, c.User) && (len(p.Groups) == 0 || c.Attestor == keyapi.EvidenceToken):
		return "its policy does not name user " + c.User, nil
	case c.Account != "" && len(p.Accounts) > 0 && !slices.ContainsFunc(p.Accounts, sameAccount(c.Account)):
		return fmt.Sprintf("its policy does not name Slurm account %q", c.Account), nil
	case c.Partition != "" && len(p.Partitions) > 0 && !slices.Contains(p.Partitions, c.Partition):
		return fmt.Sprintf("its policy does not name partition %q", c.Partition), nil
	}
	for _, n := range nodes {
		if !anyNode && !hosts.Contains(n) {
			return fmt.Sprintf("its policy does not name node %.80q", n), nil
		}
	}
	return "", nil
}
