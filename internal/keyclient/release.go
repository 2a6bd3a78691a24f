package keyclient

import (
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// AttestFunc gathers evidence for a claim that was made to serviceID. It may
// be called again with a new claim if the first came too late.
type AttestFunc func(ctx context.Context, serviceID string, claim keyapi.Claim) (keyapi.Evidence, error)

// ReleaseRequest is what a node asks for.
type ReleaseRequest struct {
	Manifest manifest.Manifest // as parsed from the signed bytes
	Digest   manifest.Digest   // of those bytes
	Job      manifest.Job
	Node     string
	Attest   AttestFunc
}

// Released is what a node was given.
type Released struct {
	// Keys has the key of each volume of the manifest, 32 bytes, by volume id.
	Keys         map[string]keyapi.BundleKey
	Statement    manifest.Statement
	StatementJWS string
	// Private is the private part that the manifest pins.
	Private []byte
	// S is the signing key that the statement certifies.
	S ed25519.PrivateKey
	// AuditHead is the signed head of the audit log after this release.
	AuditHead string
}

// Release makes fresh keys E and S, has them attested, and returns the keys of
// all volumes of the manifest. The service must be the one that the manifest
// names. A claim whose answer was lost is repeated as it is, for RepeatTTL at
// most: the service counts it once. Only when that shows that it never arrived,
// or came too late, a new one is made.
func (c *Client) Release(ctx context.Context, r ReleaseRequest) (Released, error) {
	id, key, err := c.statementKey(ctx)
	if err != nil {
		return Released{}, err
	}
	if r.Manifest.Service.ID != id || r.Manifest.Service.StatementKey != manifest.EncodeKey(key) {
		return Released{}, fmt.Errorf("%w: the manifest names %.160q, %s is %.160q", ErrService, r.Manifest.Service.ID, c.base.Host, id)
	}
	var (
		a      attested
		answer keyapi.Released
		late   bool
	)
	p := c.policy("attesting again", func(error) bool { return late })
	p.Tries = c.tries()
	err = p.Do(ctx, func() (err error) {
		late = false
		if a, err = c.attest(ctx, r, id); err != nil {
			return err
		}
		var repeated bool
		answer, repeated, err = c.claim(ctx, a.raw)
		api, ok := errors.AsType[*APIError](err)
		late = ok && (api.Retryable || repeated && errors.Is(err, ErrAttestation))
		return err
	})
	if err != nil {
		return Released{}, err
	}
	return c.open(ctx, r, a, answer)
}

// attested is a claim, ready to be made.
type attested struct {
	claim keyapi.Claim
	e     hpke.PrivateKey
	s     ed25519.PrivateKey
	raw   []byte // the body of the request
}

func (c *Client) attest(ctx context.Context, r ReleaseRequest, id string) (attested, error) {
	n, err := c.Nonce(ctx)
	if err != nil {
		return attested{}, err
	}
	e, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return attested{}, fmt.Errorf("make a key: %w", err)
	}
	pub, s, err := ed25519.GenerateKey(nil)
	if err != nil {
		return attested{}, fmt.Errorf("make a key: %w", err)
	}
	claim := keyapi.Claim{
		Manifest: r.Digest, Job: r.Job, Node: r.Node, Nonce: n.Nonce, E: e.PublicKey().Bytes(), S: pub,
	}
	if err := claim.Validate(); err != nil {
		return attested{}, err
	}
	ev, err := r.Attest(ctx, id, claim)
	if err != nil {
		return attested{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	digest := keyapi.ClaimDigest(id, claim)
	raw, err := json.Marshal(keyapi.Release{Claim: claim, Evidence: ev, Proof: ed25519.Sign(s, digest[:])})
	if err != nil {
		return attested{}, fmt.Errorf("claim: %w", err)
	}
	return attested{claim, e, s, raw}, nil
}

// claim makes a claim, the same one again while there is no answer. Where
// something of it may have reached the service, it goes on for as long as the
// service answers repeats: a new claim would be the second one. A 503 may come
// from a relay, so it proves nothing.
func (c *Client) claim(ctx context.Context, raw []byte) (out keyapi.Released, repeated bool, err error) {
	tries, arrived := 0, false
	until := time.Now().Add(keyapi.RepeatTTL)
	worth := func(err error) bool {
		unavailable := errors.Is(err, ErrUnavailable)
		if !unavailable && !errors.Is(err, ErrTooMany) || ctx.Err() != nil {
			return false
		}
		arrived = arrived || unavailable && !errors.Is(err, errNotSent)
		return c.retries >= 0 && !time.Now().After(until) && (arrived || tries < c.tries())
	}
	err = c.policy("claiming again", worth).Do(ctx, func() error {
		tries++
		out = keyapi.Released{}
		return c.once(ctx, call{method: http.MethodPost, path: "/v1/release", raw: raw}, &out)
	})
	return out, tries > 1, err
}

// open checks and opens what was released.
func (c *Client) open(ctx context.Context, r ReleaseRequest, a attested, answer keyapi.Released) (Released, error) {
	id, key, err := c.statementKey(ctx)
	if err != nil {
		return Released{}, err
	}
	out := Released{StatementJWS: answer.Statement, S: a.s, AuditHead: answer.AuditHead, Keys: map[string]keyapi.BundleKey{}}
	if out.Statement, err = CheckStatement(key, answer.Statement, id, r.Digest, r.Job, r.Node, a.claim.S); err != nil {
		return Released{}, err
	}
	if _, err := c.checkHead(ctx, answer.AuditHead); err != nil {
		return Released{}, err
	}
	b, err := keyapi.OpenBundle(a.e, id, a.claim, answer.Sealed)
	if err != nil {
		return Released{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	err = out.take(r.Manifest, b)
	return out, err
}

// take checks that the bundle holds exactly the manifest's volumes.
func (o *Released) take(m manifest.Manifest, b keyapi.Bundle) error {
	digests := map[string]manifest.Digest{}
	for _, v := range m.Volumes {
		digests[v.VolumeID] = v.Digest
	}
	for _, k := range b.Keys {
		want, ok := digests[k.VolumeID]
		if !ok || k.Digest != want || len(k.Key) != keyapi.SecretKeyLen || o.Keys[k.VolumeID].Key != nil {
			return fmt.Errorf("%w: a key for volume %.40q that the manifest does not pin so", ErrAnswer, k.VolumeID)
		}
		o.Keys[k.VolumeID] = k
	}
	if manifest.DigestOf(b.Private) != m.Private {
		return fmt.Errorf("%w: a private part that the manifest does not pin", ErrAnswer)
	}
	o.Private = b.Private
	if len(o.Keys) != len(digests) {
		return fmt.Errorf("%w: %d keys for %d volumes", ErrAnswer, len(o.Keys), len(digests))
	}
	return nil
}

// WipeKeys overwrites the volumes' keys.
func (o Released) WipeKeys() {
	for _, k := range o.Keys {
		clear(k.Key)
	}
}

// Wipe overwrites the volumes' keys and S.
func (o Released) Wipe() {
	o.WipeKeys()
	clear(o.S)
}

// CheckStatement checks an attestation statement: signed by the service's
// statement key, about this manifest, job and node, and certifying S. S may be
// nil to take whatever key is certified.
func CheckStatement(key ed25519.PublicKey, jws, service string, m manifest.Digest, job manifest.Job, node string,
	s ed25519.PublicKey) (manifest.Statement, error) {
	var st manifest.Statement
	if err := manifest.VerifyJWS(manifest.TypeStatement, key, jws, &st); err != nil {
		return st, fmt.Errorf("%w: statement: %w", ErrAnswer, err)
	}
	switch {
	case st.Service != service:
		return st, fmt.Errorf("%w: statement by another service", ErrAnswer)
	case st.Manifest != m:
		return st, fmt.Errorf("%w: statement about another manifest", ErrAnswer)
	case st.Job != job:
		return st, fmt.Errorf("%w: statement about another job", ErrAnswer)
	case st.Node != node:
		return st, fmt.Errorf("%w: statement about node %.80q", ErrAnswer, st.Node)
	case s != nil && st.S != manifest.EncodeKey(s):
		return st, fmt.Errorf("%w: statement about another signing key", ErrAnswer)
	}
	return st, nil
}
