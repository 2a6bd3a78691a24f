package keyserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// bucketPolicies holds a policy for each secret, by volume id: the JSON whose SHA-256
// the secret's record has. The record itself is read and written at every release, and
// has what does not grow with the policy.
const bucketPolicies = "policies"

// terms are what a secret's record says of its policy.
type terms struct {
	Digest     manifest.Digest `json:"digest"`
	Tier       manifest.Tier   `json:"tier"`
	Expires    time.Time       `json:"expires"`
	Releases   int             `json:"releases"`
	HostBinds  bool            `json:"host_binds"`
	Network    string          `json:"network"`
	PinVersion bool            `json:"pin_version"`
}

func termsOf(p manifest.Policy, digest manifest.Digest) terms {
	return terms{Digest: digest, Tier: p.Tier, Expires: p.Expires, Releases: p.Releases, HostBinds: p.HostBinds,
		Network: p.Network, PinVersion: p.PinVersion}
}

// storePolicy stores a volume's policy, returns its terms and has ev say what was set
// and what it replaces.
func storePolicy(w store.Writer, ev *audit.Event, volume string, p manifest.Policy) (terms, error) {
	b, digest, err := p.Encode()
	if err != nil {
		return terms{}, err
	}
	ev.Policy, ev.PolicyBefore = &audit.Policy{Digest: digest.String(), Content: b}, nil
	switch old, err := w.Get(bucketPolicies, volume); {
	case err == nil:
		ev.PolicyBefore = &audit.Policy{Digest: manifest.DigestOf(old).String(), Content: old}
	case !errors.Is(err, store.ErrNotFound):
		return terms{}, err
	}
	return termsOf(p, digest), w.Put(bucketPolicies, volume, b)
}

// policyOf reads a secret's policy.
func policyOf(g getter, s secretRecord) (p manifest.Policy, err error) {
	b, err := g.Get(bucketPolicies, s.VolumeID)
	if err == nil && manifest.DigestOf(b) != s.Policy.Digest {
		err = errors.New("it is not the one that the volume's record names")
	}
	if err == nil {
		err = manifest.DecodeJSON(b, &p)
	}
	if err != nil {
		return p, fmt.Errorf("policy of volume %s: %w", s.VolumeID, err)
	}
	return p, nil
}

// verdicts are what policies say of one release's claims, by the policies' digests: each
// is read and decided once, whatever the number of volumes that have it, and before
// the decision that others wait for.
type verdicts struct {
	claims attest.Claims
	groups map[string]bool // the claims', without ""
	known  map[manifest.Digest]verdict
	image  *secretRecord // of the job's image, when it was looked at
}

// verdict is what one policy says: what of the claims it does not name, and the images that alone it names.
type verdict struct {
	outside string
	images  []string
}

func newVerdicts(c attest.Claims) *verdicts {
	v := &verdicts{claims: c, groups: map[string]bool{}, known: map[manifest.Digest]verdict{}}
	for _, g := range c.Groups {
		if g != "" {
			v.groups[g] = true
		}
	}
	return v
}

// of returns what a secret's policy says.
func (v *verdicts) of(g getter, s secretRecord) (verdict, error) {
	said, ok := v.known[s.Policy.Digest]
	if ok {
		return said, nil
	}
	p, err := policyOf(g, s)
	if err != nil {
		return verdict{}, err
	}
	if said.outside, err = v.outside(p); err != nil {
		return verdict{}, err
	}
	said.images = p.Images
	v.known[s.Policy.Digest] = said
	return said, nil
}
