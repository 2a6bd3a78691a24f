package keyserver

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/service"
)

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
	text := base64.RawURLEncoding.EncodeToString(raw)
	keys, err := keyapi.DeriveToken(text)
	if err != nil {
		return nil, err
	}
	ev := q.event("token.new", audit.OutcomeDone)
	ev.Node = body.Node
	if body.Manifest.IsZero() {
		return nil, service.Refuse(keyapi.CodeBadRequest, "no manifest is named")
	}
	ev.Manifest = body.Manifest.String()
	rec := token.Record{Keys: keys, Manifest: body.Manifest, Account: token.Account(q.caller.account), Node: body.Node,
		Expires: s.now().Add(keyapi.TokenTTL)}
	_, err = q.commit(ev, func(w store.Writer) error { return s.recordToken(w, q.caller, &rec) })
	if err != nil {
		return nil, err
	}
	return keyapi.Token{Token: text, Expires: rec.Expires}, nil
}

// recordToken keeps a token, which expires with its manifest at the latest.
func (s *Server) recordToken(w store.Writer, who caller, rec *token.Record) error {
	digest := rec.Manifest.String()
	var m manifestRecord
	err := getJSON(w, bucketManifests, digest, &m)
	if errors.Is(err, store.ErrNotFound) || err == nil && m.Account != who.account.ID {
		return service.Refuse(keyapi.CodeNotFound, "no manifest %s was registered by this account", digest)
	}
	if err != nil {
		return err
	}
	if err := s.standsJob(w, m); err != nil {
		return err
	}
	if rec.Authority, err = who.forJobs(w); err != nil {
		return err
	}
	if !s.now().Before(m.Expires) {
		return service.Refuse(keyapi.CodePolicy, "the manifest expired at %s", m.Expires.UTC().Format(time.RFC3339))
	}
	if m.Tokens >= maxTokens {
		return service.Refuse(keyapi.CodeConflict, "%d tokens were made for this manifest already", m.Tokens)
	}
	if err := room(w, who.account, countTokens, s.limits.Tokens); err != nil {
		return err
	}
	m.Tokens++
	if m.Expires.Before(rec.Expires) {
		rec.Expires = m.Expires
	}
	return errors.Join(putJSON(w, bucketManifests, digest, m), putJSON(w, token.Bucket, rec.Keys.ID, rec),
		count(w, who.account.ID, countTokens, 1))
}
