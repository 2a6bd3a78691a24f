// Package token judges evidence of type "token": the word of a submitter who handed
// out one-time tokens.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/config"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Bucket holds a Record for each token, by its id.
const Bucket = "tokens"

// Account is the account of the submitter who asked for a token.
type Account struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Record is what is kept of a token; it does not yield the token.
type Record struct {
	Keys     keyapi.TokenKeys `json:"keys"`
	Manifest manifest.Digest  `json:"manifest"`
	Account  Account          `json:"account"`
	// Authority is the submitter's request for the token.
	Authority attest.Authority `json:"authority"`
	Node      string           `json:"node"` // "" any
	Expires   time.Time        `json:"expires"`
}

// attestor takes the word of a submitter who handed out a token. It
// shows the submitter's account; all else is what the holder says.
type attestor struct {
	store store.Viewer
	now   func() time.Time
}

// FromConfig returns New; the type takes no parameters.
func FromConfig(c *config.Server) (attest.New, error) {
	return New, store.Parameters(c.Attestors[keyapi.EvidenceToken]).Only()
}

// New returns the attestor.
func New(s attest.Service) (attest.Attestor, error) { return &attestor{s.Store, s.Now}, nil }

// lookUp returns a token's record, and whether the token is used up.
func (a *attestor) lookUp(ctx context.Context, id string) (t Record, used bool, err error) {
	err = a.store.View(ctx, func(r store.Reader) error {
		b, err := r.Get(Bucket, id)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, &t); err != nil {
			return fmt.Errorf("record in %s: %w", Bucket, err)
		}
		_, err = r.Get(attest.SingleUses, attest.SingleUseKey(keyapi.EvidenceToken, id))
		used = err == nil
		return nil
	})
	return t, used, err
}

// Attest implements attest.Attestor.
func (a *attestor) Attest(ctx context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (attest.Claims, error) {
	var p keyapi.TokenPayload
	if err := ev.Decode(keyapi.EvidenceToken, &p); err != nil {
		return attest.Claims{}, fmt.Errorf("%w: no proof of a token: %w", attest.ErrEvidence, err)
	}
	id, _, _ := strings.Cut(p.Proof, ".")
	t, used, err := a.lookUp(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return attest.Claims{}, fmt.Errorf("%w: the token is unknown", attest.ErrEvidence)
	case err != nil:
		return attest.Claims{}, fmt.Errorf("look up a token: %w", err)
	case !t.Keys.Check(p.Proof, service, c):
		return attest.Claims{}, fmt.Errorf("%w: the token's proof covers another claim", attest.ErrEvidence)
	case used:
		return attest.Claims{}, fmt.Errorf("%w: the token is used up", attest.ErrEvidence)
	case !a.now().Before(t.Expires):
		at := t.Expires.UTC().Format(time.RFC3339)
		return attest.Claims{}, fmt.Errorf("%w: the token expired at %s", attest.ErrEvidence, at)
	case t.Manifest != c.Manifest:
		return attest.Claims{}, fmt.Errorf("%w: the token is for another manifest", attest.ErrEvidence)
	case t.Node != "" && t.Node != c.Node:
		return attest.Claims{}, fmt.Errorf("%w: the token is for node %s", attest.ErrEvidence, t.Node)
	}
	return attest.Claims{
		Attestor: keyapi.EvidenceToken, Tier: manifest.TierC, UID: -1, User: t.Account.Name, Node: c.Node,
		Job: c.Job, Submitter: t.Account.ID, Authority: t.Authority, SingleUse: id,
	}, nil
}
