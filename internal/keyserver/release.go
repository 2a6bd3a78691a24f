package keyserver

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketReleases holds a releaseRecord for each (job, restart, node, secret) whose
// key was released.
const bucketReleases = "releases"

type releaseRecord struct {
	At      time.Time `json:"at"`
	Account string    `json:"account"` // whose manifest it was for
}

func (s *Server) newNonce(*request) (any, error) {
	return s.nonces.issue(s.now()), nil
}

// release answers POST /v1/release. The decision is made twice by the same
// rules: first on a snapshot, so that everything that can fail (reading and
// sealing keys, signing) is done before the decision that counts.
func (s *Server) release(q *request) (any, error) {
	var body keyapi.Release
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	c := body.Claim
	if err := c.Validate(); err != nil {
		return nil, service.Refuse(keyapi.CodeBadRequest, "%w", err)
	}
	ev := q.event("release", audit.OutcomeReleased)
	ev.Node, ev.Manifest = c.Node, c.Manifest.String()
	ev.Job = &c.Job

	name := requestName(q.body)
	leave, err := s.inFlight.enter(q.ctx, name)
	if err != nil {
		return nil, err
	}
	defer leave()
	claims, again, err := s.released(q.ctx, name)
	if err != nil {
		return nil, err
	}
	if again {
		ev.Outcome = audit.OutcomeRepeated
		claims, err = s.review(q, body, claims)
	} else {
		claims, err = s.attest(q, body)
	}
	if err != nil {
		return nil, err
	}
	ev.Attestor, ev.Tier, ev.User, ev.UID = claims.Attestor, claims.Tier.String(), claims.User, &claims.UID
	return s.releaseTo(q, c, claims, name, again)
}

// releaseTo decides on a claim whose evidence holds.
func (s *Server) releaseTo(q *request, c keyapi.Claim, claims attest.Claims, name string, again bool) (any, error) {
	var g grant
	v := newVerdicts(claims)
	err := s.store.View(q.ctx, func(r store.Reader) (err error) {
		g, err = s.decideRelease(r, c, v, again)
		return err
	})
	q.ev.Submitter, q.ev.Volumes = g.manifest.Account, g.volumeIDs()
	var answer keyapi.Released
	var missing error // a key that was destroyed
	if err == nil {
		answer, err = s.prepareRelease(q, c, claims, g)
	}
	if errors.Is(err, store.ErrNotFound) {
		missing, err = err, nil
	}
	if err != nil {
		return nil, s.refuseRelease(q, c, g, again, err)
	}
	answer.AuditHead, err = q.commit(q.ev, func(w store.Writer) error {
		g, err := s.decideRelease(w, c, v, again)
		if err == nil && missing != nil { // nor was it destroyed meanwhile
			err = service.Refuse(keyapi.CodeNotFound, "%w", missing).WithHint(keyGone)
		}
		if err == nil {
			q.ev.Policies = g.policies()
		}
		switch {
		case again:
			return err
		case err != nil:
			return s.spend(w, c, g, err)
		}
		return errors.Join(s.nonces.use(w, c.Nonce), g.record(w, s.now()), s.rememberRelease(w, name, claims))
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// spend uses up the nonce of a claim that is refused, and has the owners of the volumes
// know of it.
func (s *Server) spend(w store.Writer, c keyapi.Claim, g grant, refused error) error {
	return errors.Join(g.addTries(w, refused, s.now()), s.nonces.spend(w, c.Nonce, refused))
}

// refuseRelease records a refusal, with which the nonce is used up.
func (s *Server) refuseRelease(q *request, c keyapi.Claim, g grant, again bool, refused error) error {
	if again {
		return refused
	}
	_, err := q.commit(q.ev, func(w store.Writer) error { return s.spend(w, c, g, refused) })
	return err
}

// attest checks the nonce, possession of S, and the evidence. The nonce is used up
// by nothing less: else whoever only saw a claim go by could come first.
func (s *Server) attest(q *request, body keyapi.Release) (attest.Claims, error) {
	c := body.Claim
	if err := s.nonces.check(c.Nonce, s.now()); err != nil {
		return attest.Claims{}, err
	}
	digest := keyapi.ClaimDigest(s.id, c)
	if !ed25519.Verify(c.S, digest[:], body.Proof) {
		return attest.Claims{}, service.Refuse(keyapi.CodeAttestation, "the claim is not signed by its own key S for this service")
	}
	a, ok := s.attestors[body.Evidence.Type]
	if !ok {
		return attest.Claims{}, notAccepted(body.Evidence)
	}
	claims, err := a.Attest(q.ctx, s.id, c, body.Evidence)
	if err != nil {
		return attest.Claims{}, evidenceError(body.Evidence, err)
	}
	return claims, checkClaims(c, claims)
}

// review looks at evidence again that was shown before: whoever vouched for it may be
// believed no more.
func (s *Server) review(q *request, body keyapi.Release, shown attest.Claims) (attest.Claims, error) {
	a := s.attestors[body.Evidence.Type]
	if a == nil {
		return shown, notAccepted(body.Evidence)
	}
	r, ok := a.(attest.Reviewer)
	if !ok {
		return shown, nil
	}
	claims, err := r.Review(q.ctx, s.id, body.Claim, body.Evidence)
	if err != nil {
		return shown, evidenceError(body.Evidence, err)
	}
	return claims, checkClaims(body.Claim, claims)
}

func notAccepted(ev keyapi.Evidence) error {
	return service.Refuse(keyapi.CodeAttestation, "evidence of type %.40q is not accepted here", ev.Type)
}

// evidenceError returns an attestor's error as a caller is told of it.
func evidenceError(ev keyapi.Evidence, err error) error {
	if errors.Is(err, attest.ErrEvidence) {
		return service.Refuse(keyapi.CodeAttestation, "%w", err)
	}
	return fmt.Errorf("attestor %s: %w", ev.Type, err)
}

// checkClaims keeps a faulty attestor from saying more than was claimed.
func checkClaims(c keyapi.Claim, claims attest.Claims) error {
	if claims.UID == 0 || claims.User == "" || claims.Tier < manifest.TierC || claims.Tier > manifest.TierA ||
		claims.Node != c.Node || claims.Job != c.Job || claims.Submitter != claims.Authority.Account {
		return service.Refuse(keyapi.CodeAttestation, "the evidence does not show a user, this node and this job")
	}
	return nil
}

// grant is a positive decision, to be recorded.
type grant struct {
	manifest manifestRecord
	secrets  []secretRecord
	private  []byte
	claims   attest.Claims
	refusing string // volume whose policy or owner refused; "" if the job itself was
}

func (g grant) volumeIDs() []string {
	var ids []string
	for _, v := range g.manifest.Volumes {
		ids = append(ids, v.ID)
	}
	return ids
}

// policies returns the digests of the policies that let the volumes' keys go.
func (g grant) policies() []string {
	var digests []string
	for _, s := range g.secrets {
		digests = append(digests, s.Policy.Digest.String())
	}
	return digests
}

// decideRelease decides on all of a manifest's volumes or none. A release that
// was counted already (again) is held to everything but what counts releases.
// On refusal the grant holds the manifest's record, if there is one, for the audit.
func (s *Server) decideRelease(r getter, c keyapi.Claim, verdicts *verdicts, again bool) (grant, error) {
	claims := verdicts.claims
	g := grant{claims: claims}
	if err := s.unaltered(); err != nil {
		return g, err
	}
	if !again {
		if err := s.nonces.unused(r, c.Nonce); err != nil {
			return g, err
		}
	}
	err := getJSON(r, bucketManifests, c.Manifest.String(), &g.manifest)
	if errors.Is(err, store.ErrNotFound) {
		return g, service.Refuse(keyapi.CodeNotFound, "manifest %s is not registered here", c.Manifest).
			WithHint("submit the job again with job-prep")
	}
	if err != nil {
		return g, err
	}
	if err := s.standsJob(r, g.manifest); err != nil {
		return g, err
	}
	if err := s.standsEvidence(r, claims); err != nil {
		return g, err
	}
	if err := s.checkManifest(g.manifest, claims, again); err != nil {
		return g, err
	}
	if claims.SingleUse != "" && !again {
		_, err := r.Get(attest.SingleUses, attest.SingleUseKey(claims.Attestor, claims.SingleUse))
		if err == nil {
			return g, service.Refuse(keyapi.CodeAttestation, "the %s was used before", claims.Attestor)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return g, err
		}
	}
	for _, v := range g.manifest.Volumes {
		sec, err := s.decideSecret(r, v, g.manifest, verdicts, again)
		if err != nil {
			g.refusing = v.ID
			return g, err
		}
		g.secrets = append(g.secrets, sec)
	}
	if !again {
		err := roomFor(r, account{ID: g.manifest.Account}, countReleases, len(g.secrets), s.limits.Releases)
		if err != nil {
			return g, err
		}
	}
	if g.private, err = r.Get(bucketPrivate, g.manifest.Digest.String()); err != nil {
		return g, fmt.Errorf("private part of manifest %s: %w", g.manifest.Digest, err)
	}
	return g, nil
}

func (s *Server) checkManifest(m manifestRecord, c attest.Claims, again bool) error {
	job := c.Job
	job.Restart = 0
	switch {
	case !s.now().Before(m.Expires):
		return service.Refuse(keyapi.CodePolicy, "the manifest expired at %s", m.Expires.UTC().Format(time.RFC3339)).
			WithHint("submit the job again")
	case c.Tier < s.minTier:
		return service.Refuse(keyapi.CodePolicy, "this key service releases nothing below tier %s, the evidence is of tier %s", s.minTier, c.Tier)
	case c.Tier < m.Tier:
		return service.Refuse(keyapi.CodePolicy, "the manifest demands evidence of tier %s, this is %s", m.Tier, c.Tier)
	case m.Cluster != "" && m.Cluster != c.Job.Cluster:
		return service.Refuse(keyapi.CodePolicy, "the manifest is for cluster %s, the node is of %s", m.Cluster, c.Job.Cluster)
	case c.Submitter == "" && c.User != m.User:
		return service.Refuse(keyapi.CodePolicy, "the manifest is for a job of user %s, this one is of %s", m.User, c.User)
	case c.Submitter != "" && c.Submitter != m.Account:
		return service.Refuse(keyapi.CodeAttestation, "the evidence comes from another account than the manifest")
	case m.Bound != nil && *m.Bound != job:
		return service.Refuse(keyapi.CodeConflict, "the manifest belongs to job %s, not to job %s", jobName(*m.Bound), jobName(job)).
			WithHint("one manifest is for one job: submit again with job-prep")
	case again:
		return nil
	}
	return m.servable(c.Job.Restart)
}

// decideSecret looks at one volume. The owner's policy comes before the
// question whether its key was released, so that nobody whom it refuses learns that.
func (s *Server) decideSecret(r getter, v volumeUse, m manifestRecord, verdicts *verdicts, again bool) (secretRecord, error) {
	var sec secretRecord
	err := getJSON(r, bucketSecrets, v.ID, &sec)
	if errors.Is(err, store.ErrNotFound) {
		return sec, noSecret(r, v.ID, "is not deposited here")
	}
	if err != nil {
		return sec, err
	}
	if err := sameDigest(sec, v); err != nil {
		return sec, err
	}
	others := sec
	if again {
		others.Released-- // all but this one
	}
	if err := checkSecret(r, others, m, verdicts, s.now()); err != nil {
		return sec, err
	}
	if err := s.standsPolicy(r, sec); err != nil || again {
		return sec, err
	}
	c := verdicts.claims
	_, err = r.Get(bucketReleases, releaseKey(v.ID, c))
	if err == nil {
		return sec, service.Refuse(keyapi.CodeConflict,
			"the key of volume %s was released to job %s on node %s before; a second claim is refused",
			v.ID, jobName(c.Job), c.Node).WithHint("if that was not this job, somebody else claimed in its name: see the audit log")
	}
	if !errors.Is(err, store.ErrNotFound) {
		return sec, err
	}
	return sec, nil
}

// releaseKey names a release. Where the job's number is only the submitter's
// word, the submitter is part of it, so that nobody can use up another's.
func releaseKey(volume string, c attest.Claims) string {
	return fmt.Sprintf("%s/%s/%s/%d/%s", volume, c.Submitter, jobName(c.Job), c.Job.Restart, c.Node)
}

// record counts and binds.
func (g grant) record(w store.Writer, now time.Time) error {
	m, c := g.manifest, g.claims
	job := c.Job
	job.Restart = 0
	m.Bound = &job
	m.serve(c.Job.Restart)
	if g.manifest.Bound == nil {
		if err := w.Put(bucketJobs, m.jobKey(job.ID), nil); err != nil {
			return err
		}
	}
	if err := putJSON(w, bucketManifests, m.Digest.String(), m); err != nil {
		return err
	}
	if c.SingleUse != "" {
		if err := putJSON(w, attest.SingleUses, attest.SingleUseKey(c.Attestor, c.SingleUse), now.UTC()); err != nil {
			return err
		}
	}
	if err := count(w, m.Account, countReleases, len(g.secrets)); err != nil {
		return err
	}
	for _, sec := range g.secrets {
		sec.Released++
		err := errors.Join(
			putJSON(w, bucketSecrets, sec.VolumeID, sec),
			addRelease(w, sec, m, c, now),
			putJSON(w, bucketReleases, releaseKey(sec.VolumeID, c), releaseRecord{now.UTC(), m.Account}))
		if err != nil {
			return err
		}
	}
	return nil
}

// keyGone is told of a key that is not where the records say that it is.
const keyGone = "the keys are an older state than the records: the key service's administrator restores them, " +
	"or the owner deposits the key again, by publishing the volume again"

// prepareRelease seals the keys to E and signs the statement about S. A key that
// is not there is store.ErrNotFound.
func (s *Server) prepareRelease(q *request, c keyapi.Claim, claims attest.Claims, g grant) (keyapi.Released, error) {
	b := keyapi.Bundle{Private: g.private}
	defer func() {
		for _, k := range b.Keys {
			clear(k.Key)
		}
	}()
	for _, sec := range g.secrets {
		key, err := s.keys.Key(q.ctx, sec.VolumeID)
		if err != nil {
			return keyapi.Released{}, fmt.Errorf("key of volume %s: %w", sec.VolumeID, err)
		}
		b.Keys = append(b.Keys, keyapi.BundleKey{VolumeID: sec.VolumeID, Digest: sec.Digest, Key: key})
	}
	sealed, err := keyapi.SealBundle(s.id, c, b)
	if errors.Is(err, keyapi.ErrInvalid) {
		return keyapi.Released{}, service.Refuse(keyapi.CodeBadRequest, "%w", err)
	}
	if err != nil {
		return keyapi.Released{}, err
	}
	statement, err := manifest.SignJWS(manifest.TypeStatement, s.signKey, manifest.Statement{
		Service: s.id, Manifest: c.Manifest, Job: claims.Job, Node: claims.Node, UID: claims.UID, User: claims.User,
		Tier: claims.Tier, Attestor: claims.Attestor, S: manifest.EncodeKey(c.S), Issued: s.now().UTC(),
	})
	return keyapi.Released{Sealed: sealed, Statement: statement}, err
}
