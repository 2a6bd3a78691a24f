package keyclient

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

func secretPath(volume string) string { return "/v1/secrets/" + url.PathEscape(volume) }

// PutSecret deposits a volume's key with its policy. The same deposit again
// succeeds; a volume deposited by somebody else, or with another key, is
// ErrConflict.
func (c *Client) PutSecret(ctx context.Context, volume string, s keyapi.Secret) (keyapi.SecretInfo, error) {
	var out keyapi.SecretInfo
	err := c.do(ctx, call{method: http.MethodPut, path: secretPath(volume), body: s, signed: true}, &out)
	return out, err
}

// GetSecret returns what the owner sees of a secret; ErrNotFound if it is not
// this account's.
func (c *Client) GetSecret(ctx context.Context, volume string) (keyapi.SecretInfo, error) {
	var out keyapi.SecretInfo
	err := c.do(ctx, call{method: http.MethodGet, path: secretPath(volume), signed: true}, &out)
	return out, err
}

// Secrets iterates over this account's secrets, by volume id. It asks for a page
// when the one before is through; an error is the last that it yields.
func (c *Client) Secrets(ctx context.Context) iter.Seq2[keyapi.SecretEntry, error] {
	return func(yield func(keyapi.SecretEntry, error) bool) {
		for after := ""; ; {
			page, err := c.secretPage(ctx, after, keyapi.MaxPage)
			if err != nil {
				yield(keyapi.SecretEntry{}, err)
				return
			}
			for _, s := range page.Secrets {
				if !yield(s, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			after = page.Next
		}
	}
}

// Enrolled returns nil if the service knows the signer's key.
func (c *Client) Enrolled(ctx context.Context) error {
	_, err := c.secretPage(ctx, "", 1)
	return err
}

// secretPage returns the secrets with ids beyond after. That pages go on is
// checked, so that no service keeps its client for ever.
func (c *Client) secretPage(ctx context.Context, after string, limit int) (keyapi.SecretList, error) {
	var out keyapi.SecretList
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	k := call{method: http.MethodGet, path: "/v1/secrets", query: query.Encode(), signed: true}
	if err := c.do(ctx, k, &out); err != nil {
		return out, err
	}
	for _, s := range out.Secrets {
		if s.VolumeID <= after {
			return out, fmt.Errorf("%w: a list that is out of order", ErrAnswer)
		}
		after = s.VolumeID
	}
	if out.Next != "" && (out.Next != after || len(out.Secrets) == 0) {
		return out, fmt.Errorf("%w: a list whose next page does not follow", ErrAnswer)
	}
	return out, nil
}

// maxHistory is more entries than a service keeps of a volume.
const maxHistory = 10_000

// SecretLog returns the history of one's own secret, by kind of entry.
func (c *Client) SecretLog(ctx context.Context, volume string) (all []keyapi.LogEntry, err error) {
	query := url.Values{}
	for {
		var page keyapi.SecretLog
		k := call{method: http.MethodGet, path: secretPath(volume) + "/log", query: query.Encode(), signed: true}
		if err := c.do(ctx, k, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Entries...)
		if page.Next == "" {
			return all, nil
		}
		if len(page.Entries) == 0 || len(all) > maxHistory {
			return nil, fmt.Errorf("%w: a history without end", ErrAnswer)
		}
		query.Set("after", page.Next)
	}
}

// SecretJobs returns the registered jobs that may still ask for the key of one's own secret.
func (c *Client) SecretJobs(ctx context.Context, volume string) (keyapi.SecretJobs, error) {
	var out keyapi.SecretJobs
	err := c.do(ctx, call{method: http.MethodGet, path: secretPath(volume) + "/jobs", signed: true}, &out)
	return out, err
}

// SetPolicy replaces the policy of one's own secret, whatever it is.
func (c *Client) SetPolicy(ctx context.Context, volume string, p manifest.Policy) (keyapi.SecretInfo, error) {
	return c.putPolicy(ctx, volume, "", p)
}

// ReplacePolicy is SetPolicy if the policy in force still is the one with digest was;
// ErrChanged if somebody has changed it meanwhile.
func (c *Client) ReplacePolicy(ctx context.Context, volume string, was manifest.Digest, p manifest.Policy) (keyapi.SecretInfo, error) {
	return c.putPolicy(ctx, volume, url.Values{"if": {was.String()}}.Encode(), p)
}

func (c *Client) putPolicy(ctx context.Context, volume, query string, p manifest.Policy) (keyapi.SecretInfo, error) {
	var out keyapi.SecretInfo
	b, err := json.Marshal(p)
	if err != nil {
		return out, fmt.Errorf("policy: %w", err)
	}
	path := secretPath(volume) + "/policy"
	err = c.do(ctx, call{method: http.MethodPut, path: path, query: query, raw: b, signed: true}, &out)
	return out, err
}

// Revoke ends the release of one's own secret for good, and destroys the service's
// copy of its key.
func (c *Client) Revoke(ctx context.Context, volume string) (keyapi.SecretInfo, error) {
	var out keyapi.SecretInfo
	err := c.do(ctx, call{method: http.MethodPost, path: secretPath(volume) + "/revoke", signed: true}, &out)
	return out, err
}

// Delete has the service destroy the key of one's own secret and forget the volume.
// The same again succeeds.
func (c *Client) Delete(ctx context.Context, volume string) error {
	var out keyapi.Deleted
	return c.do(ctx, call{method: http.MethodDelete, path: secretPath(volume), signed: true}, &out)
}

// RegisterManifest registers the exact signed bytes of a manifest with their
// armoured SSHSIG, and the private part that they pin, for one job. The same
// again succeeds.
func (c *Client) RegisterManifest(ctx context.Context, signed, signature, private []byte) (keyapi.ManifestInfo, error) {
	return c.registerManifest(ctx, keyapi.Manifest{Manifest: signed, Private: private, Signature: string(signature), Uses: 1})
}

// RegisterJob is RegisterManifest, and is refused, with ErrPolicy as a rule, where the service can tell already that the
// job would get no key.
func (c *Client) RegisterJob(ctx context.Context, signed, signature, private []byte, e keyapi.Expect) (keyapi.ManifestInfo, error) {
	return c.registerManifest(ctx,
		keyapi.Manifest{Manifest: signed, Private: private, Signature: string(signature), Uses: 1, Expect: &e})
}

func (c *Client) registerManifest(ctx context.Context, body keyapi.Manifest) (keyapi.ManifestInfo, error) {
	var out keyapi.ManifestInfo
	if err := c.do(ctx, call{method: http.MethodPost, path: "/v1/manifests", body: body, signed: true}, &out); err != nil {
		return out, err
	}
	if want := manifest.DigestOf(body.Manifest); out.Digest != want {
		return out, fmt.Errorf("%w: registered %s instead of %s", ErrAnswer, out.Digest, want)
	}
	return out, nil
}

// ManifestsOf returns one's own manifests that a job of that number is bound to; cluster "" is any.
func (c *Client) ManifestsOf(ctx context.Context, job uint32, cluster string) (keyapi.ManifestList, error) {
	var out keyapi.ManifestList
	query := url.Values{"job": {strconv.FormatUint(uint64(job), 10)}}
	if cluster != "" {
		query.Set("cluster", cluster)
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/manifests", query: query.Encode(), signed: true}, &out)
	for _, m := range out.Manifests {
		if err == nil && (m.Job == nil || m.Job.ID != job || cluster != "" && m.Job.Cluster != cluster) {
			err = fmt.Errorf("%w: a manifest of another job", ErrAnswer)
		}
	}
	return out, err
}

// Manifest returns one of one's own registered manifests; ErrNotFound if the service knows none such of this account.
func (c *Client) Manifest(ctx context.Context, digest manifest.Digest) (keyapi.ManifestEntry, error) {
	var out keyapi.ManifestEntry
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/manifests/" + digest.String(), signed: true}, &out)
	if err == nil && out.Digest != digest {
		err = fmt.Errorf("%w: manifest %s instead of %s", ErrAnswer, out.Digest, digest)
	}
	return out, err
}

// NewToken returns a new one-time token for a registered manifest; node "" is any.
func (c *Client) NewToken(ctx context.Context, digest manifest.Digest, node string) (keyapi.Token, error) {
	var out keyapi.Token
	err := c.do(ctx, call{method: http.MethodPost, path: "/v1/tokens",
		body: keyapi.TokenRequest{Manifest: digest, Node: node}, signed: true}, &out)
	return out, err
}

// Nonce asks for a nonce for one attestation. Release does so itself.
func (c *Client) Nonce(ctx context.Context) (keyapi.Nonce, error) {
	var out keyapi.Nonce
	err := c.do(ctx, call{method: http.MethodPost, path: "/v1/nonces"}, &out)
	return out, err
}

// Account returns one's own account, with the keys that are enrolled for it.
func (c *Client) Account(ctx context.Context) (keyapi.Account, error) {
	var out keyapi.Account
	err := c.do(ctx, call{method: http.MethodGet, path: "/v1/account", signed: true}, &out)
	return out, err
}

// AuditHead returns the head of the audit log, its signature checked, and the
// JWS itself to keep.
func (c *Client) AuditHead(ctx context.Context) (keyapi.AuditHead, string, error) {
	var out keyapi.SignedHead
	if err := c.do(ctx, call{method: http.MethodGet, path: "/v1/audit/head", signed: true}, &out); err != nil {
		return keyapi.AuditHead{}, "", err
	}
	h, err := c.checkHead(ctx, out.Head)
	return h, out.Head, err
}

func (c *Client) checkHead(ctx context.Context, jws string) (keyapi.AuditHead, error) {
	var h keyapi.AuditHead
	id, key, err := c.statementKey(ctx)
	if err != nil {
		return h, err
	}
	if err := manifest.VerifyJWS(manifest.TypeAuditHead, key, jws, &h); err != nil {
		return h, fmt.Errorf("%w: audit head: %w", ErrAnswer, err)
	}
	if h.Service != id {
		return h, fmt.Errorf("%w: audit head of another service", ErrAnswer)
	}
	return h, nil
}
