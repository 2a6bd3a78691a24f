package keyserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/service"
)

const (
	bucketTokens = "tokens"      // by token id: tokenRecord
	bucketUsed   = "single-uses" // by attestor and Claims.SingleUse
)

// tokenRecord is what is kept of a token; it does not yield the token.
type tokenRecord struct {
	Keys     keyapi.TokenKeys `json:"keys"`
	Manifest manifest.Digest  `json:"manifest"`
	Account  account          `json:"account"`
	Node     string           `json:"node"` // "" any
	Expires  time.Time        `json:"expires"`
}

// tokenAttestor takes the word of a submitter who handed out a token. It
// shows the submitter's account; all else is what the holder says.
type tokenAttestor struct {
	store store.Store
	now   func() time.Time
}

func (a *tokenAttestor) Attest(ctx context.Context, service string, c keyapi.Claim, ev keyapi.Evidence) (Claims, error) {
	var p keyapi.TokenPayload
	if err := ev.Decode(keyapi.EvidenceToken, &p); err != nil {
		return Claims{}, fmt.Errorf("%w: no proof of a token: %w", ErrEvidence, err)
	}
	id, _, _ := strings.Cut(p.Proof, ".")
	var t tokenRecord
	used := false
	err := a.store.View(ctx, func(r store.Reader) error {
		if err := getJSON(r, bucketTokens, id, &t); err != nil {
			return err
		}
		_, err := r.Get(bucketUsed, singleUseKey(keyapi.EvidenceToken, id))
		used = err == nil
		return nil
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return Claims{}, fmt.Errorf("%w: the token is unknown", ErrEvidence)
	case err != nil:
		return Claims{}, fmt.Errorf("look up a token: %w", err)
	case !t.Keys.Check(p.Proof, service, c):
		return Claims{}, fmt.Errorf("%w: the token's proof covers another claim", ErrEvidence)
	case used:
		return Claims{}, fmt.Errorf("%w: the token is used up", ErrEvidence)
	case !a.now().Before(t.Expires):
		return Claims{}, fmt.Errorf("%w: the token expired at %s", ErrEvidence, t.Expires.UTC().Format(time.RFC3339))
	case t.Manifest != c.Manifest:
		return Claims{}, fmt.Errorf("%w: the token is for another manifest", ErrEvidence)
	case t.Node != "" && t.Node != c.Node:
		return Claims{}, fmt.Errorf("%w: the token is for node %s", ErrEvidence, t.Node)
	}
	return Claims{
		Attestor: keyapi.EvidenceToken, Tier: manifest.TierC, UID: -1, User: t.Account.Name, Node: c.Node,
		Job:       c.Job,
		Submitter: t.Account.ID, SingleUse: id,
	}, nil
}

func singleUseKey(attestor, id string) string { return attestor + "/" + id }

// newToken answers POST /v1/tokens: only who registered a manifest may hand
// out its keys.
func (s *Server) newToken(q *request) (any, error) {
	var body keyapi.TokenRequest
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	if body.Node != "" && !names.Node(body.Node) {
		return nil, service.Refuse(keyapi.CodeBadRequest, "%.80q is not a node's name", body.Node)
	}
	raw := make([]byte, keyapi.TokenSize)
	rand.Read(raw) // never fails
	token := base64.RawURLEncoding.EncodeToString(raw)
	keys, err := keyapi.DeriveToken(token)
	if err != nil {
		return nil, err
	}
	ev := q.event("token.new", audit.OutcomeDone)
	ev.Node = body.Node
	if body.Manifest.IsZero() {
		return nil, service.Refuse(keyapi.CodeBadRequest, "no manifest is named")
	}
	ev.Manifest = body.Manifest.String()
	rec := tokenRecord{Keys: keys, Manifest: body.Manifest, Account: q.caller.account, Node: body.Node,
		Expires: s.now().Add(keyapi.TokenTTL)}
	_, err = q.commit(ev, func(w store.Writer) error {
		var m manifestRecord
		err := getJSON(w, bucketManifests, ev.Manifest, &m)
		if errors.Is(err, store.ErrNotFound) || err == nil && m.Account != q.caller.account.ID {
			return service.Refuse(keyapi.CodeNotFound, "no manifest %s was registered by this account", body.Manifest)
		}
		if err != nil {
			return err
		}
		if !s.now().Before(m.Expires) {
			return service.Refuse(keyapi.CodePolicy, "the manifest expired at %s", m.Expires.UTC().Format(time.RFC3339))
		}
		if m.Tokens >= maxTokens {
			return service.Refuse(keyapi.CodeConflict, "%d tokens were made for this manifest already", m.Tokens)
		}
		if err := room(w, q.caller.account, countTokens, s.limits.Tokens); err != nil {
			return err
		}
		m.Tokens++
		if m.Expires.Before(rec.Expires) {
			rec.Expires = m.Expires
		}
		return errors.Join(putJSON(w, bucketManifests, ev.Manifest, m), putJSON(w, bucketTokens, keys.ID, rec),
			count(w, rec.Account.ID, countTokens, 1))
	})
	if err != nil {
		return nil, err
	}
	return keyapi.Token{Token: token, Expires: rec.Expires}, nil
}
