package keyserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// foresee refuses a manifest whose job would get no key as things are, where that can be known before there is evidence:
// a job would wait in the queue for nothing. It looks at a snapshot, and decides nothing: the release does.
func (s *Server) foresee(q *request, m manifest.Manifest, rec manifestRecord, e keyapi.Expect) error {
	if len(e.Nodes) > keyapi.MaxExpectedNodes {
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
	g, secrets, err := s.copyFor(q.ctx, rec.Volumes)
	if err != nil {
		return err
	}
	f, err := newForecast(q.ctx, claims, e.Nodes, g, secrets)
	if err != nil {
		return err
	}
	for _, sec := range secrets {
		if err := s.foreseeSecret(g, sec, rec, f); err != nil {
			return err
		}
	}
	return nil
}

// copied is what was read of the store, by bucket and key.
type copied map[[2]string][]byte

func (c copied) Get(bucket, key string) ([]byte, error) {
	if b, ok := c[[2]string{bucket, key}]; ok {
		return b, nil
	}
	return nil, store.ErrNotFound
}

// take reads a record, if it is there.
func (c copied) take(g getter, bucket, key string) error {
	b, err := g.Get(bucket, key)
	switch {
	case err == nil:
		c[[2]string{bucket, key}] = b
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	return nil
}

// copyFor reads what foresee looks at: the volumes' records, and of each policy one copy. Nothing is decided meanwhile,
// since whoever wants the store for themselves waits.
func (s *Server) copyFor(ctx context.Context, volumes []volumeUse) (c copied, secrets []secretRecord, err error) {
	c = copied{}
	policies := map[manifest.Digest]bool{}
	err = s.store.View(ctx, func(r store.Reader) error {
		for _, v := range volumes {
			var sec secretRecord
			err := getJSON(r, bucketSecrets, v.ID, &sec)
			if errors.Is(err, store.ErrNotFound) || err == nil && sec.Digest != v.Digest {
				continue // registering refuses it
			}
			if err == nil {
				err = c.take(r, bucketWithdrawn, sec.Owner)
			}
			if err == nil && !policies[sec.Policy.Digest] {
				err = c.take(r, bucketPolicies, sec.VolumeID)
			}
			if err != nil {
				return err
			}
			policies[sec.Policy.Digest] = true
			secrets = append(secrets, sec)
		}
		return nil
	})
	return c, secrets, err
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

func (s *Server) foreseeSecret(g getter, sec secretRecord, m manifestRecord, f *forecast) error {
	refuse := func(why, hint string) error {
		return service.Refuse(keyapi.CodePolicy, "volume %s (%s): %s", keyapi.Called(sec.Name, sec.File), sec.VolumeID, why).WithHint("%s", hint)
	}
	if why := unusable(sec, f.claims, s.now()); why != "" {
		hint := "ask its owner"
		if sec.SupersededBy != "" {
			hint = "use the newer volume's info file, or ask its owner to keep this version open: sealbatch policy set --pin-version"
		}
		return refuse(why, hint)
	}
	why, err := f.of(sec)
	if err != nil {
		return err
	}
	if why = cmp.Or(why, f.otherImage(sec, m)); why != "" {
		return refuse(why, "ask its owner to name it: sealbatch policy set")
	}
	if why := excessive(sec, m); why != "" {
		return refuse(why, "")
	}
	// How many are left is for the owner to know.
	least := cmp.Or(m.MinNodes, m.Nodes)
	if left := sec.Policy.Releases - sec.Released; sec.Policy.Releases > 0 && left < least {
		return refuse(fmt.Sprintf("too few releases of its key are left for the job's %d nodes, each of which needs one", least),
			"ask its owner for more: sealbatch policy set --releases")
	}
	return s.standsPolicy(g, sec)
}
