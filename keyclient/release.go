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

	"github.com/sealbatch/sealbatch/keyapi"
	"github.com/sealbatch/sealbatch/manifest"
)

// AttestFunc gathers evidence for a claim that was made to serviceID. It may
// be called again with a new claim if the service or the verifier was busy.
type AttestFunc func(ctx context.Context, serviceID string, claim keyapi.Claim) (keyapi.Evidence, error)

// TokenAttest attests by a one-time token.
func TokenAttest(token string) AttestFunc {
	return func(_ context.Context, service string, c keyapi.Claim) (keyapi.Evidence, error) {
		return keyapi.TokenEvidence(token, service, c)
	}
}

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
	// Keys holds 32 bytes for each volume of the manifest, by volume id.
	Keys         map[string][]byte
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
// names. A release whose answer was lost is not repeated: the service would
// refuse the second claim.
func (c *Client) Release(ctx context.Context, r ReleaseRequest) (Released, error) {
	id, key, err := c.statementKey(ctx)
	if err != nil {
		return Released{}, err
	}
	if r.Manifest.Service.ID != id || r.Manifest.Service.StatementKey != manifest.EncodeKey(key) {
		return Released{}, fmt.Errorf("%w: the manifest names %.160q, %s is %.160q", ErrService, r.Manifest.Service.ID, c.base.Host, id)
	}
	for try := 0; ; try++ {
		out, wait, err := c.releaseOnce(ctx, r, id, key)
		again := errors.Is(err, ErrTooMany) || errors.Is(err, errBusy)
		if err == nil || !again || try >= c.retries {
			return out, err
		}
		wait = max(wait, backoff(try))
		c.log.Info("key service: attesting again", "in", wait, "error", err)
		select {
		case <-ctx.Done():
			return Released{}, errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// errBusy marks refusals after which nothing was counted, so that a new
// attestation may succeed.
var errBusy = errors.New("nothing was done")

func (c *Client) releaseOnce(ctx context.Context, r ReleaseRequest, id string, key ed25519.PublicKey) (Released, time.Duration, error) {
	n, err := c.Nonce(ctx)
	if err != nil {
		return Released{}, 0, err
	}
	e, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return Released{}, 0, fmt.Errorf("make a key: %w", err)
	}
	pub, s, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Released{}, 0, fmt.Errorf("make a key: %w", err)
	}
	claim := keyapi.Claim{
		Manifest: r.Digest.String(), Cluster: r.Job.Cluster, JobID: r.Job.ID, ArrayTask: r.Job.ArrayTask, Restart: r.Job.Restart,
		Node: r.Node, Nonce: n.Nonce, E: e.PublicKey().Bytes(), S: pub,
	}
	if err := claim.Validate(); err != nil {
		return Released{}, 0, err
	}
	ev, err := r.Attest(ctx, id, claim)
	if err != nil {
		return Released{}, 0, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	digest := keyapi.ClaimDigest(id, claim)
	raw, err := json.Marshal(keyapi.Release{Claim: claim, Evidence: ev, Proof: ed25519.Sign(s, digest[:])})
	if err != nil {
		return Released{}, 0, fmt.Errorf("claim: %w", err)
	}
	var answer keyapi.Released
	wait, err := c.once(ctx, call{method: http.MethodPost, path: "/v1/release", raw: raw}, &answer)
	if api, ok := errors.AsType[*APIError](err); ok && api.Code == keyapi.CodeUnavailable {
		err = fmt.Errorf("%w (%w)", err, errBusy)
	}
	if err != nil {
		return Released{}, wait, err
	}
	out := Released{StatementJWS: answer.Statement, S: s, AuditHead: answer.AuditHead, Keys: map[string][]byte{}}
	if out.Statement, err = CheckStatement(key, answer.Statement, id, r.Digest, r.Job, r.Node, pub); err != nil {
		return Released{}, 0, err
	}
	if _, err := c.checkHead(ctx, answer.AuditHead); err != nil {
		return Released{}, 0, err
	}
	b, err := keyapi.OpenBundle(e, id, claim, answer.Sealed)
	if err != nil {
		return Released{}, 0, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return out, 0, out.take(r.Manifest, b)
}

// take checks that the bundle holds exactly the manifest's volumes.
func (o *Released) take(m manifest.Manifest, b keyapi.Bundle) error {
	digests := map[string]string{}
	for _, v := range m.Volumes() {
		digests[v.VolumeID] = v.Digest.String()
	}
	for _, k := range b.Keys {
		want, ok := digests[k.VolumeID]
		if !ok || k.Digest != want || len(k.Key) != keyapi.SecretKeyLen || o.Keys[k.VolumeID] != nil {
			return fmt.Errorf("%w: a key for volume %.40q that the manifest does not pin so", ErrAnswer, k.VolumeID)
		}
		o.Keys[k.VolumeID] = k.Key
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

// CheckStatement checks an attestation statement: signed by the service's
// statement key, about this manifest, job and node, and certifying S. S may be
// nil to take whatever key is certified.
func CheckStatement(key ed25519.PublicKey, jws, service string, m manifest.Digest, job manifest.Job, node string, s ed25519.PublicKey) (manifest.Statement, error) {
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
