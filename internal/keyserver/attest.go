package keyserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
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
	// SingleUse names evidence that is good for one release. The release
	// records it in its own transaction.
	SingleUse string
}

// Attestor checks one type of evidence. Attest returns what evidence shows
// about claim, which was made to serviceID with a fresh nonce, or an error that
// wraps ErrEvidence. Evidence must cover the whole claim (ClaimDigest with the
// service's id): evidence for another claim, nonce, key or service is refused.
// Attest changes nothing and may be called concurrently.
type Attestor interface {
	Attest(ctx context.Context, serviceID string, claim keyapi.Claim, ev keyapi.Evidence) (Claims, error)
}

// Verifier enrols a cluster's verifier.
type Verifier struct {
	keyapi.Cluster                   // its Tier, what the verifier\'s word is worth, is C or B2
	Key            ed25519.PublicKey // its signing key
}

// Freshness of vouchers, and how far a verifier's clock may run ahead.
const (
	voucherAge  = 60 * time.Second
	voucherSkew = 10 * time.Second
)

// slurmAttestor takes the word of enrolled verifiers.
type slurmAttestor struct {
	verifiers map[string]Verifier // by cluster
	now       func() time.Time
}

// NewSlurmAttestor returns the attestor of evidence type "slurm": a voucher
// (keyapi.Voucher, JWS) by the verifier enrolled for the claim's cluster. now
// may be nil.
func NewSlurmAttestor(verifiers []Verifier, now func() time.Time) (Attestor, error) {
	a := &slurmAttestor{verifiers: map[string]Verifier{}, now: now}
	if now == nil {
		a.now = time.Now
	}
	for _, v := range verifiers {
		switch {
		case v.Name == "" || len(v.Key) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("verifier of cluster %q lacks a name or a key", v.Name)
		case v.Tier != manifest.TierC && v.Tier != manifest.TierB2:
			return nil, fmt.Errorf("verifier of cluster %q: tier %s; a verifier's word is worth B2 at most", v.Name, v.Tier)
		}
		if _, ok := a.verifiers[v.Name]; ok {
			return nil, fmt.Errorf("two verifiers are enrolled for cluster %q", v.Name)
		}
		a.verifiers[v.Name] = v
	}
	return a, nil
}

func (a *slurmAttestor) Attest(_ context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (Claims, error) {
	v, ok := a.verifiers[c.Job.Cluster]
	if !ok {
		return Claims{}, fmt.Errorf("%w: no verifier is enrolled for cluster %.80q", ErrEvidence, c.Job.Cluster)
	}
	var p keyapi.SlurmPayload
	if err := ev.Decode(keyapi.EvidenceSlurm, &p); err != nil {
		return Claims{}, fmt.Errorf("%w: no voucher: %w", ErrEvidence, err)
	}
	var w keyapi.Voucher
	if err := manifest.VerifyJWS(manifest.TypeVoucher, v.Key, p.Voucher, &w); err != nil {
		return Claims{}, fmt.Errorf("%w: voucher: %w", ErrEvidence, err)
	}
	if err := a.check(service, c, w); err != nil {
		return Claims{}, fmt.Errorf("%w: voucher %w", ErrEvidence, err)
	}
	return Claims{
		Attestor: keyapi.EvidenceSlurm, Tier: v.Tier, UID: w.UID, User: w.User, Groups: w.Groups, Node: w.Node,
		Job:     w.Job,
		Account: w.Account, Partition: w.Partition,
	}, nil
}

func (a *slurmAttestor) check(service string, c keyapi.Claim, w keyapi.Voucher) error {
	digest := keyapi.ClaimDigest(service, c)
	age := a.now().Sub(w.Issued)
	switch {
	case w.Service != service:
		return errors.New("was made for another service")
	case w.Job.Cluster != c.Job.Cluster:
		return errors.New("names another cluster")
	case len(w.Claim) != len(digest) || [32]byte(w.Claim) != digest:
		return errors.New("covers another claim")
	case w.UID <= 0 || w.UID > 1<<32-2:
		return fmt.Errorf("names uid %d", w.UID)
	case !names.Unix(w.User) || w.User == "root":
		return fmt.Errorf("names user %.80q", w.User)
	case len(w.Groups) > 4096:
		return fmt.Errorf("names %d groups", len(w.Groups))
	case age > voucherAge || age < -voucherSkew:
		return fmt.Errorf("was issued at %s: by the verifier's clock, which is %s the key service's, or it was used too late (it is good for %s)",
			w.Issued.UTC().Format(time.RFC3339), aheadOf(-age), voucherAge)
	case w.Node != c.Node:
		return fmt.Errorf("names node %.80q, the claim %.80q", w.Node, c.Node)
	case w.Job != c.Job:
		return errors.New("names another job")
	}
	return nil
}
