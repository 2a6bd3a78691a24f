package keyserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// bucketWaiting finds the registered manifests that pin a volume, by
// VOLUME/EXPIRY/MANIFEST: empty. EXPIRY are Unix seconds in twelve digits, so that those
// that can be presented still are the last.
const bucketWaiting = "waiting"

// maxWaitingLook bounds how many manifests are looked at for one answer, and
// maxWaitingBytes how long their records may be together: at worst 20 ms.
const (
	maxWaitingLook  = 2000
	maxWaitingBytes = 2 << 20
)

func waitingKey(volume string, expires time.Time, manifest string) string {
	return fmt.Sprintf("%s/%012d/%s", volume, expires.Unix(), manifest)
}

// waitingKeys returns the names of m's records in bucketWaiting.
func (m manifestRecord) waitingKeys() (keys []string) {
	for _, v := range m.Volumes {
		keys = append(keys, waitingKey(v.ID, m.Expires, m.Digest.String()))
	}
	return keys
}

// secretJobs answers GET /v1/secrets/{volume}/jobs.
func (s *Server) secretJobs(q *request) (any, error) {
	_, err := q.commit(q.event("secret.jobs", audit.OutcomeDone), func(w store.Writer) error {
		_, err := ownSecretNoted(w, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := keyapi.SecretJobs{Jobs: []keyapi.SecretJob{}}
	err = s.store.View(q.ctx, func(r store.Reader) error {
		sec, err := ownSecret(r, q)
		if err != nil {
			return err
		}
		return s.readJobs(r, sec, &out)
	})
	return out, err
}

// readJobs puts the jobs into out that may still ask for a secret's key, and to which the
// owner's policy may give it as it is now: others register what they like.
func (s *Server) readJobs(r store.Reader, sec secretRecord, out *keyapi.SecretJobs) error {
	p, err := policyOf(r, sec)
	if err != nil {
		return err
	}
	looked, size := 0, 0
	prefix := sec.VolumeID + "/"
	now := waitingKey(sec.VolumeID, s.now().Add(time.Second), "")
	err = r.EachAfter(bucketWaiting, prefix, now, func(k string, _ []byte) error {
		if looked++; looked > maxWaitingLook || size > maxWaitingBytes {
			out.Uncounted = true
			return errPageFull
		}
		b, err := r.Get(bucketManifests, k[strings.LastIndexByte(k, '/')+1:])
		if err != nil {
			return fmt.Errorf("record in %s: %w", bucketWaiting, err)
		}
		size += len(b)
		var m manifestRecord
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("record in %s: %w", bucketManifests, err)
		}
		if m.Starts > 0 && m.Served >= m.Nodes || outsideJob(p, m.likelyClaims()) != "" || excessive(sec, m) != "" {
			return nil
		}
		if withheld, err := reason(s.standsJob(r, m)); err != nil || withheld != "" {
			return err
		}
		if len(out.Jobs) == keyapi.MaxSecretJobs {
			out.More++
			return nil
		}
		out.Jobs = append(out.Jobs, m.forOwner(sec.Owner))
		return nil
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return err
}

// likelyClaims returns what evidence of the job will show, as far as the submitter has said it.
func (m manifestRecord) likelyClaims() attest.Claims {
	c := attest.Claims{Attestor: m.Attest}
	switch c.Job.Cluster = m.Cluster; m.Attest {
	case keyapi.EvidenceSlurm:
		c.User = m.User
	case keyapi.EvidenceToken:
		c.User = m.Submitter
	}
	return c
}

// forOwner returns what the owner of one of its volumes sees of a registered job.
func (m manifestRecord) forOwner(owner string) keyapi.SecretJob {
	j := keyapi.SecretJob{Account: m.Submitter, User: m.User, Cluster: m.Cluster, Nodes: m.Nodes, Job: m.Bound,
		Registered: m.Registered.At, Expires: m.Expires}
	if m.Account == owner {
		j.Manifest = m.Digest.String()
	}
	return j
}
