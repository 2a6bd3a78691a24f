// Package voucher judges evidence of type "slurm": vouchers by the verifiers that
// are enrolled for clusters.
package voucher

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Verifier enrols a cluster's verifier.
type Verifier struct {
	keyapi.Cluster                   // its Tier, what the verifier's word is worth, is C or B2
	Key            ed25519.PublicKey // its signing key
}

// Freshness of vouchers, and how far a verifier's clock may run ahead.
const (
	voucherAge  = 60 * time.Second
	voucherSkew = 10 * time.Second
)

// attestor takes the word of enrolled verifiers.
type attestor struct {
	verifiers map[string]Verifier // by cluster
	clusters  []keyapi.Cluster    // as they were enrolled
	now       func() time.Time
}

// New returns what makes the attestor that takes the word of verifiers, each for
// its own cluster.
func New(verifiers ...Verifier) attest.New {
	return func(s attest.Service) (attest.Attestor, error) { return newAttestor(verifiers, s.Now) }
}

func newAttestor(verifiers []Verifier, now func() time.Time) (attest.Attestor, error) {
	a := &attestor{verifiers: map[string]Verifier{}, now: now}
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
		a.clusters = append(a.clusters, v.Cluster)
	}
	return a, nil
}

// Describe implements attest.Describer: submitters learn how nodes reach their
// cluster's verifier.
func (a *attestor) Describe(s *keyapi.Service, _ *keyapi.Attestor) {
	s.Clusters = append(s.Clusters, a.clusters...)
}

// Attest implements attest.Attestor.
func (a *attestor) Attest(_ context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (attest.Claims, error) {
	return a.judge(service, c, ev, voucherAge)
}

// Review implements attest.Reviewer: the voucher must be by the verifier that is
// enrolled now.
func (a *attestor) Review(_ context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (attest.Claims, error) {
	return a.judge(service, c, ev, voucherAge+keyapi.RepeatTTL)
}

// judge takes vouchers that are not older than most.
func (a *attestor) judge(service string, c keyapi.Claim, ev keyapi.Evidence, most time.Duration) (attest.Claims, error) {
	v, ok := a.verifiers[c.Job.Cluster]
	if !ok {
		return attest.Claims{}, fmt.Errorf("%w: no verifier is enrolled for cluster %.80q", attest.ErrEvidence, c.Job.Cluster)
	}
	var p keyapi.SlurmPayload
	if err := ev.Decode(keyapi.EvidenceSlurm, &p); err != nil {
		return attest.Claims{}, fmt.Errorf("%w: no voucher: %w", attest.ErrEvidence, err)
	}
	var w keyapi.Voucher
	if err := manifest.VerifyJWS(manifest.TypeVoucher, v.Key, p.Voucher, &w); err != nil {
		return attest.Claims{}, fmt.Errorf("%w: voucher: %w", attest.ErrEvidence, err)
	}
	if err := a.check(service, c, w, most); err != nil {
		return attest.Claims{}, fmt.Errorf("%w: voucher %w", attest.ErrEvidence, err)
	}
	return attest.Claims{
		Attestor: keyapi.EvidenceSlurm, Tier: v.Tier, UID: w.UID, User: w.User, Groups: w.Groups, Node: w.Node,
		Job: w.Job, Account: w.Account, Partition: w.Partition,
	}, nil
}

func (a *attestor) check(service string, c keyapi.Claim, w keyapi.Voucher, most time.Duration) error {
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
	case age > most || age < -voucherSkew:
		return fmt.Errorf("was issued at %s: by the verifier's clock, which is %s the key service's, or it was used too late (it is good for %s)",
			w.Issued.UTC().Format(time.RFC3339), text.AheadOf(-age), voucherAge)
	case w.Node != c.Node:
		return fmt.Errorf("names node %.80q, the claim %.80q", w.Node, c.Node)
	case w.Job != c.Job:
		return errors.New("names another job")
	}
	return nil
}
