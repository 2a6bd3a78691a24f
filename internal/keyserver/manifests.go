package keyserver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

const (
	bucketManifests = "manifests" // by digest: manifestRecord
	bucketPrivate   = "private"   // by the manifest's digest: its private part
)

const (
	// maxTokens bounds the tokens of one manifest: one a node and restart.
	maxTokens = 1 << 17
	// maxStarts bounds the starts of one job that are given keys: Slurm requeues a
	// batch job five times by itself (MaxBatchRequeue), and a number of a start may be
	// no more than its submitter's word.
	maxStarts = 256
)

// manifestRecord is what release needs of a registered manifest.
type manifestRecord struct {
	Digest    manifest.Digest `json:"digest"`
	Run       string          `json:"run"`       // the manifest's
	JobDir    string          `json:"job_dir"`   // likewise
	Account   string          `json:"account"`   // id of who registered it
	Submitter string          `json:"submitter"` // that account's name
	// Registered is the request that did, Signer the fingerprint of the key that
	// signed the manifest itself.
	Registered attest.Authority `json:"registered"`
	Signer     string           `json:"signer"`
	Expires    time.Time        `json:"expires"`
	Tier       manifest.Tier    `json:"tier"`
	Cluster    string           `json:"cluster"` // whose nodes may present it; "" any
	User       string           `json:"user"`    // Unix user whose job it is
	Attest     string           `json:"attest"`  // the type of its evidence
	Nodes      int              `json:"nodes"`
	MinNodes   int              `json:"min_nodes,omitempty"` // 0: as many as Nodes
	HostBinds  bool             `json:"host_binds"`          // its runtime flags need permission
	Network    string           `json:"network"`
	Volumes    []volumeUse      `json:"volumes"`
	// Bound is the first job that was given keys; Restart in it is 0.
	Bound *manifest.Job `json:"bound,omitempty"`
	// Restart is the newest start of the job that was given keys, Served how many
	// nodes of it were, Starts how many starts there were.
	Restart uint32 `json:"restart,omitempty"`
	Served  int    `json:"served,omitempty"`
	Starts  int    `json:"starts,omitempty"`
	Tokens  int    `json:"tokens"`
	Bytes   int    `json:"bytes"` // that the account's jobs have in the store by this record
}

// servable refuses keys for one more node of a start of the job.
func (m manifestRecord) servable(restart uint32) error {
	name := jobName(*cmp.Or(m.Bound, &manifest.Job{}))
	switch {
	case m.Starts > 0 && restart < m.Restart:
		return service.Refuse(keyapi.CodeConflict, "keys were given to a later start of job %s; this is start %d, that was %d",
			name, restart, m.Restart).WithHint("if the job was not requeued, somebody else claimed in its name: see the audit log")
	case m.Starts > 0 && restart == m.Restart && m.Served >= m.Nodes:
		return service.Refuse(keyapi.CodeConflict,
			"keys were given to all %d nodes of job %s before; a further claim is refused", m.Nodes, name).
			WithHint("if that was not this job, somebody else claimed in its name: see the audit log")
	case (m.Starts == 0 || restart > m.Restart) && m.Starts >= maxStarts:
		return service.Refuse(keyapi.CodeConflict, "keys were given to %d starts of job %s, which is as many as a job may have",
			m.Starts, name).WithHint("submit the job again")
	}
	return nil
}

// serve counts one more node of a start.
func (m *manifestRecord) serve(restart uint32) {
	if m.Starts == 0 || restart > m.Restart {
		m.Restart, m.Served = restart, 0
		m.Starts++
	}
	m.Served++
}

// volumeUse is a volume as the manifest pins it.
type volumeUse struct {
	ID     string          `json:"id"`
	Digest manifest.Digest `json:"digest"`
	// Image is the digest of the container image in it, by the manifest's word; zero if it says none.
	Image manifest.Digest `json:"image,omitzero"`
}

// newManifest answers POST /v1/manifests. The same manifest by the same account
// again is no error and changes nothing, unless the earlier registration counts no
// more: then it rests on the new one.
func (s *Server) newManifest(q *request) (any, error) {
	var body keyapi.Manifest
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	m, digest, err := manifest.Parse(body.Manifest)
	if err != nil {
		return nil, service.Refuse(keyapi.CodeBadRequest, "%w", err)
	}
	ev := q.event("manifest.register", audit.OutcomeDone)
	ev.Manifest = digest.String()
	if body.Uses != 1 {
		return nil, service.Refuse(keyapi.CodeBadRequest, "%d uses: a manifest is for 1 job", body.Uses)
	}
	signer, err := s.checkManifestSignature(q, body)
	if err != nil {
		return nil, err
	}
	now := s.now()
	switch {
	case m.Service.ID != s.id || m.Service.StatementKey != s.statementKey():
		return nil, service.Refuse(keyapi.CodeBadRequest, "the manifest is for key service %.80q, this is %s", m.Service.ID, s.id)
	case !now.Before(m.Expires):
		return nil, service.Refuse(keyapi.CodeBadRequest, "the manifest expired at %s", m.Expires.UTC().Format(time.RFC3339))
	case m.Expires.After(now.Add(keyapi.MaxManifestLife + keyapi.MaxSkew)):
		return nil, service.Refuse(keyapi.CodeBadRequest, "the manifest expires later than %d days from now",
			keyapi.MaxManifestLife/(24*time.Hour))
	}
	if manifest.DigestOf(body.Private) != m.Private {
		return nil, service.Refuse(keyapi.CodeBadRequest, "the private part is not the one that the manifest pins")
	}
	private, err := manifest.ParsePrivate(body.Private)
	if err != nil {
		return nil, service.Refuse(keyapi.CodeBadRequest, "%w", err)
	}
	rec := recordOf(m, private, digest, q.caller.account)
	rec.Signer = signer
	if body.Expect != nil {
		if err := s.foresee(q, m, rec, *body.Expect); err != nil {
			return nil, err
		}
	}
	_, err = q.commit(ev, func(w store.Writer) error { return s.register(w, q.caller, rec, body.Private) })
	if err != nil {
		return nil, err
	}
	return keyapi.ManifestInfo{Digest: rec.Digest, Expires: rec.Expires}, nil
}

func recordOf(m manifest.Manifest, p manifest.Private, d manifest.Digest, who account) manifestRecord {
	flags, err := manifest.ParseFlags(p.Flags) // a parsed private part's flags are valid
	rec := manifestRecord{
		Digest: d, Run: m.Run, JobDir: m.JobDir, Account: who.ID, Submitter: who.Name, Expires: m.Expires, Tier: m.Tier,
		Cluster: m.Cluster, User: m.User, Attest: m.Attest.Type, Nodes: m.Nodes, MinNodes: m.MinNodes, HostBinds: err != nil || flags.HostBinds, Network: m.Network,
	}
	seen := map[volumeUse]bool{}
	for _, v := range m.Volumes {
		u := volumeUse{ID: v.VolumeID, Digest: v.Digest}
		if v.Image != nil {
			u.Image = v.Image.Digest
		}
		if !seen[u] { // one volume may be mounted under two names
			rec.Volumes = append(rec.Volumes, u)
		}
		seen[u] = true
	}
	return rec
}

// checkManifestSignature checks that a manifest is signed by a key of the
// requesting account that may sign manifests, and returns its fingerprint.
func (s *Server) checkManifestSignature(q *request, body keyapi.Manifest) (signer string, err error) {
	key, err := sshid.VerifySSH(manifest.NamespaceManifest, body.Manifest, []byte(body.Signature))
	if err != nil {
		return "", service.Refuse(keyapi.CodeForbidden, "the manifest's signature: %w", err)
	}
	signer = ssh.FingerprintSHA256(key)
	acc, err := s.accounts.lookup(signer, manifest.NamespaceManifest, s.now())
	if err != nil {
		return "", s.notEnrolled(keyapi.CodeForbidden, fmt.Errorf("the manifest's signature: %w", err))
	}
	if acc.ID != q.caller.account.ID {
		return "", service.Refuse(keyapi.CodeForbidden, "the manifest is signed by account %s, the request by %s",
			acc.Name, q.caller.account.Name)
	}
	return signer, nil
}

func (s *Server) register(w store.Writer, who caller, rec manifestRecord, private []byte) error {
	var err error
	if rec.Registered, err = who.forJobs(w); err != nil {
		return err
	}
	var old manifestRecord
	err = getJSON(w, bucketManifests, rec.Digest.String(), &old)
	switch {
	case err == nil && old.Account == rec.Account:
		if s.standsJob(w, old) == nil {
			return nil
		}
		old.Registered, old.Signer = rec.Registered, rec.Signer
		return putJSON(w, bucketManifests, rec.Digest.String(), old)
	case err == nil:
		return service.Refuse(keyapi.CodeConflict, "another account registered this manifest")
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := room(w, who.account, countManifests, s.limits.Manifests); err != nil {
		return err
	}
	for _, v := range rec.Volumes {
		var secret secretRecord
		err := getJSON(w, bucketSecrets, v.ID, &secret)
		if errors.Is(err, store.ErrNotFound) {
			return noSecret(w, v.ID, "was never deposited at this key service: seal and ship it with data-prep or "+
				"container-prep, or ask its owner which service has its key")
		}
		if err != nil {
			return err
		}
		if err := sameDigest(secret, v); err != nil {
			return err
		}
	}
	return s.storeManifest(w, who.account, rec, private)
}

func (s *Server) storeManifest(w store.Writer, who account, rec manifestRecord, private []byte) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record in %s: %w", bucketManifests, err)
	}
	rec.Bytes = len(b) + len(rec.jobKey(0)) // by which it is found once it is bound
	waiting := rec.waitingKeys()
	for _, key := range waiting {
		rec.Bytes += len(key)
		if err := w.Put(bucketWaiting, key, nil); err != nil {
			return err
		}
	}
	if err := roomFor(w, who, countBytes, rec.Bytes+len(private), s.limits.JobBytes); err != nil {
		return err
	}
	return errors.Join(w.Put(bucketPrivate, rec.Digest.String(), private), putJSON(w, bucketManifests, rec.Digest.String(), rec),
		count(w, rec.Account, countManifests, 1), count(w, rec.Account, countBytes, rec.Bytes+len(private)))
}

func sameDigest(s secretRecord, v volumeUse) error {
	if s.Digest != v.Digest {
		// Neither its name nor its digest: whoever asks may have guessed the id.
		return service.Refuse(keyapi.CodePolicy, "volume %s: the manifest pins %s, which is not what its owner deposited", s.VolumeID, v.Digest)
	}
	if !v.Image.IsZero() && v.Image != s.Image {
		return service.Refuse(keyapi.CodePolicy, "volume %s: the manifest says that it holds container image %s, its owner said otherwise",
			s.VolumeID, v.Image)
	}
	return nil
}

// jobName returns a job's name in records and messages, the same for all its restarts.
func jobName(j manifest.Job) string {
	if j.ArrayTask >= 0 {
		return fmt.Sprintf("%s/%d_%d", j.Cluster, j.ID, j.ArrayTask)
	}
	return fmt.Sprintf("%s/%d", j.Cluster, j.ID)
}
