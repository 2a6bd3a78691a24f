// Package attest is the seam between the key service and what judges the
// evidence of nodes. Package attestortest is the conformance test.
//
//	keyserver ── Attestor ──┬─ voucher: the word of clusters' enrolled verifiers
//	                        ├─ token: one-time tokens
//	                        └─ another package: one line in the table of Types
package attest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// ErrEvidence is wrapped by every refusal of evidence.
var ErrEvidence = errors.New("evidence does not hold")

// Claims are what evidence has shown. What it does not show is empty, and
// satisfies no policy that asks for it.
type Claims struct {
	Attestor  string // type of the evidence
	Tier      manifest.Tier
	UID       int64 // -1 where the evidence shows none; never 0
	User      string
	Groups    []string
	Node      string
	Job       manifest.Job
	Account   string // Slurm's
	Partition string
	// Submitter is the account id that must have registered the manifest;
	// empty where the evidence does not come from a submitter.
	Submitter string
	// Authority is the submitter's request for the evidence. The key service asks
	// at release whether it still counts.
	Authority Authority
	// SingleUse names evidence that is good for one release. The release
	// records it in its own transaction.
	SingleUse string
}

// Authority is a signed request of an account's on which something rests that is
// used later: a manifest, a token, a policy. The zero value stands for nobody.
type Authority struct {
	Account string    `json:"account"` // its id
	Key     string    `json:"key"`     // fingerprint of the SSH key that signed
	At      time.Time `json:"at"`      // by the key service's clock
	// Withdrawn is how often the administrator had withdrawn what the account made, by then.
	Withdrawn int `json:"withdrawn"`
}

// Attestor checks one type of evidence. Attest returns what evidence shows
// about claim, which was made to serviceID with a fresh nonce, or an error that
// wraps ErrEvidence. Evidence must cover the whole claim (ClaimDigest with the
// service's id): evidence for another claim, nonce, key or service is refused.
// Attest changes nothing and may be called concurrently.
type Attestor interface {
	Attest(ctx context.Context, serviceID string, claim keyapi.Claim, ev keyapi.Evidence) (Claims, error)
}

// Reviewer is an attestor that can look at evidence again which it has judged
// before, and which has aged since: Review returns what it shows now, or an error that
// wraps ErrEvidence if whoever vouched for it is believed no more.
type Reviewer interface {
	Review(ctx context.Context, serviceID string, claim keyapi.Claim, ev keyapi.Evidence) (Claims, error)
}

// Describer is an attestor that has something to say to submitters: Describe adds
// it to the service's description of itself, in which own is the attestor's part.
type Describer interface {
	Describe(s *keyapi.Service, own *keyapi.Attestor)
}

// Service is what a key service lends its attestors.
type Service struct {
	Store store.Viewer // of the service's records; attestors change nothing there
	Now   func() time.Time
}

// New returns an attestor for a key service.
type New func(Service) (Attestor, error)

// Types are the types of evidence, by name. Each value reads its own part of the
// service's configuration, strictly.
type Types map[string]func(*config.Server) (New, error)

// Configure returns what makes the attestor of each type.
func (t Types) Configure(c *config.Server) (map[string]New, error) {
	for name := range c.Attestors {
		if t[name] == nil {
			return nil, fmt.Errorf("[attestor %s]: evidence of that type is not known here", name)
		}
	}
	out := map[string]New{}
	for name, configure := range t {
		n, err := configure(c)
		if err != nil {
			return nil, fmt.Errorf("evidence of type %s: %w", name, err)
		}
		out[name] = n
	}
	return out, nil
}

// SingleUses is the bucket in which a release records evidence that is used up.
const SingleUses = "single-uses"

// SingleUseKey returns the record's key for evidence of type typ that Claims call
// by id.
func SingleUseKey(typ, id string) string { return typ + "/" + id }
