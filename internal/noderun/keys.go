package noderun

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealbatch/sealbatch/internal/evidence"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyclient"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/retry"
	"github.com/sealbatch/sealbatch/volume"
)

// KeySource gives a node the keys of its job's volumes. It fails with
// ErrAttestation, ErrKeyRefused or ErrUnreachable.
type KeySource interface {
	Fetch(ctx context.Context, req KeyRequest) (Grant, error)
}

// KeyRequest is what keys are asked for.
type KeyRequest struct {
	Manifest manifest.Manifest
	Digest   manifest.Digest // of the manifest
	Job      manifest.Job
	Node     string
	NodeID   int // counts a job's nodes from 0
}

// Grant is what comes back.
type Grant struct {
	Signer    ed25519.PrivateKey // S
	Statement string             // JWS, manifest.Statement: certifies S's public half
	Keys      []GrantedKey
	Private   []byte // the private part that the manifest pins
}

// GrantedKey is one released key with the digest that its volume must have.
type GrantedKey struct {
	VolumeID string
	Digest   manifest.Digest
	Key      volume.Key
}

// wipe overwrites the volumes' keys.
func (g *Grant) wipe() {
	for i := range g.Keys {
		g.Keys[i].Key.Wipe()
	}
}

// key returns the key of a volume.
func (g *Grant) key(ref manifest.VolumeRef) (GrantedKey, error) {
	for _, k := range g.Keys {
		if k.VolumeID == ref.VolumeID {
			return k, nil
		}
	}
	return GrantedKey{}, fmt.Errorf("%w: no key was released for volume %s", ErrKeyRefused, ref.VolumeID)
}

// checkStatement returns the statement if it is the pinned service's word for
// this very run, at the tier that the manifest demands or above.
func (g *Grant) checkStatement(req KeyRequest) (manifest.Statement, error) {
	pinned, err := manifest.DecodeKey(req.Manifest.Service.StatementKey)
	if err != nil {
		return manifest.Statement{}, fmt.Errorf("the manifest's statement key: %w", err)
	}
	if len(g.Signer) != ed25519.PrivateKeySize {
		return manifest.Statement{}, fmt.Errorf("%w: no signing key", ErrAttestation)
	}
	signer, _ := g.Signer.Public().(ed25519.PublicKey)
	st, err := keyclient.CheckStatement(pinned, g.Statement, req.Manifest.Service.ID, req.Digest, req.Job, req.Node, signer)
	if err != nil {
		return manifest.Statement{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	if st.Tier < req.Manifest.Tier {
		return manifest.Statement{}, fmt.Errorf("%w: the evidence is of tier %s, the manifest demands %s",
			ErrAttestation, st.Tier, req.Manifest.Tier)
	}
	return st, nil
}

// How long an unreachable key service is asked again, and how often.
const (
	fetchLimit   = 10 * time.Minute
	fetchWait    = time.Second
	fetchMaxWait = 30 * time.Second
)

// fetchKeys asks src until it answers, limit at most. A refusal is an answer.
func fetchKeys(ctx context.Context, src KeySource, req KeyRequest, limit time.Duration, log *slog.Logger) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var g Grant
	err := retry.Policy{
		First: fetchWait, Most: fetchMaxWait,
		Worth:   func(err error) bool { return errors.Is(err, ErrUnreachable) },
		Waiting: func(wait time.Duration, err error) { log.Warn("trying again", "in", wait, "error", err) },
	}.Do(ctx, func() (err error) {
		g, err = src.Fetch(ctx, req)
		return err
	})
	switch {
	case !errors.Is(err, ErrUnreachable):
		return g, err
	case errors.Is(ctx.Err(), context.Canceled):
		return Grant{}, context.Cause(ctx)
	}
	return Grant{}, unanswered(err, req.Manifest)
}

// unanswered returns the error of a job that waited for its keys in vain, with the
// next step.
func unanswered(err error, m manifest.Manifest) error {
	who := "whoever runs the key service at " + m.Service.URL
	if e, ok := errors.AsType[*evidence.UnavailableError](err); ok {
		who = e.Who
	}
	return fault.New(fault.Key, err, who+" finds the reason there; when it answers again, submit the job again with job-prep")
}

// fetchTime returns how long this job can wait for its keys: a run that could only
// seal nothing is not started.
func fetchTime(a allocation, sealSeconds int) time.Duration {
	left := a.left(time.Now())
	if left < 0 {
		return fetchLimit
	}
	return max(0, min(fetchLimit, left-time.Duration(sealSeconds)*time.Second))
}
