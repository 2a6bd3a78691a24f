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
)

// KeySource has the keys of a job's volumes released to its node. It fails with
// ErrAttestation, ErrKeyRefused or ErrUnreachable.
type KeySource interface {
	Fetch(ctx context.Context, req KeyRequest) (keyclient.Released, error)
}

// KeyRequest is what keys are asked for.
type KeyRequest struct {
	Manifest manifest.Manifest
	Digest   manifest.Digest // of the manifest
	Job      manifest.Job
	Node     string
}

// checkStatement returns the statement of a release if it is the pinned service's
// word for this very run, at the tier that the manifest demands or above.
func checkStatement(r keyclient.Released, req KeyRequest) (manifest.Statement, error) {
	pinned, err := manifest.DecodeKey(req.Manifest.Service.StatementKey)
	if err != nil {
		return manifest.Statement{}, fmt.Errorf("the manifest's statement key: %w", err)
	}
	if len(r.S) != ed25519.PrivateKeySize {
		return manifest.Statement{}, fmt.Errorf("%w: no signing key", ErrAttestation)
	}
	signer, _ := r.S.Public().(ed25519.PublicKey)
	st, err := keyclient.CheckStatement(pinned, r.StatementJWS, req.Manifest.Service.ID, req.Digest, req.Job, req.Node, signer)
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
func fetchKeys(ctx context.Context, src KeySource, req KeyRequest, limit time.Duration, log *slog.Logger) (keyclient.Released, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var released keyclient.Released
	err := retry.Policy{
		First: fetchWait, Most: fetchMaxWait,
		Worth:   func(err error) bool { return errors.Is(err, ErrUnreachable) },
		Waiting: func(wait time.Duration, err error) { log.Warn("trying again", "in", wait, "error", err) },
	}.Do(ctx, func() (err error) {
		released, err = src.Fetch(ctx, req)
		return err
	})
	switch {
	case !errors.Is(err, ErrUnreachable):
		return released, err
	case errors.Is(ctx.Err(), context.Canceled):
		return keyclient.Released{}, context.Cause(ctx)
	}
	return keyclient.Released{}, unanswered(err, req.Manifest)
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
