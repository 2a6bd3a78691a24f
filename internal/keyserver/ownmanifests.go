package keyserver

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketJobs finds an account's manifests by the job that each is bound to:
// ACCOUNT/JOB/MANIFEST, empty. JOB is Slurm's number in ten digits; several clusters may
// have one of that number, and one cluster over the years.
const bucketJobs = "jobs"

func jobPrefix(account string, id uint32) string { return fmt.Sprintf("%s/%010d/", account, id) }

// jobKey returns the name of m's record in bucketJobs; it is as long for all jobs.
func (m manifestRecord) jobKey(id uint32) string { return jobPrefix(m.Account, id) + m.Digest.String() }

// listManifests answers GET /v1/manifests?job=ID[&cluster=NAME].
func (s *Server) listManifests(q *request) (any, error) {
	id, cluster, err := jobOf(q.query)
	if err != nil {
		return nil, err
	}
	out := keyapi.ManifestList{Manifests: []keyapi.ManifestEntry{}}
	err = s.store.View(q.ctx, func(r store.Reader) error {
		prefix := jobPrefix(q.caller.account.ID, id)
		return r.Each(bucketJobs, prefix, func(k string, _ []byte) error {
			var m manifestRecord
			if err := getJSON(r, bucketManifests, strings.TrimPrefix(k, prefix), &m); err != nil {
				return fmt.Errorf("record in %s: %w", bucketJobs, err)
			}
			if cluster != "" && (m.Bound == nil || m.Bound.Cluster != cluster) {
				return nil
			}
			if len(out.Manifests) == keyapi.MaxJobManifests {
				out.More = true
				return errPageFull
			}
			out.Manifests = append(out.Manifests, m.entry())
			return nil
		})
	})
	if err != nil && !errors.Is(err, errPageFull) {
		return nil, err
	}
	_, err = q.commit(q.event("manifest.list", audit.OutcomeDone), nil)
	return out, err
}

// jobOf reads the query of listManifests, strictly.
func jobOf(query string) (id uint32, cluster string, err error) {
	values, err := url.ParseQuery(query)
	bad := err != nil || len(values["job"]) != 1 || len(values["cluster"]) > 1
	for name := range values {
		bad = bad || name != "job" && name != "cluster"
	}
	n, err := strconv.ParseUint(values.Get("job"), 10, 32)
	cluster = values.Get("cluster")
	if bad || err != nil || values.Has("cluster") && !names.Word(cluster) {
		return 0, "", service.Refuse(keyapi.CodeBadRequest, "query %.80q is not job=NUMBER or job=NUMBER&cluster=NAME", query)
	}
	return uint32(n), cluster, nil
}

// getManifest answers GET /v1/manifests/{manifest}. Another account's is told from none by nothing.
func (s *Server) getManifest(q *request) (any, error) {
	ev := q.event("manifest.get", audit.OutcomeDone)
	ev.Manifest = q.manifest.String()
	var m manifestRecord
	_, err := q.commit(ev, func(w store.Writer) error {
		err := getJSON(w, bucketManifests, q.manifest.String(), &m)
		if errors.Is(err, store.ErrNotFound) || err == nil && m.Account != q.caller.account.ID {
			return service.Refuse(keyapi.CodeNotFound, "this account has registered no manifest %s, or it is forgotten",
				q.manifest)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m.entry(), nil
}

// entry returns what the account that registered m sees of it.
func (m manifestRecord) entry() keyapi.ManifestEntry {
	return keyapi.ManifestEntry{Digest: m.Digest, Run: m.Run, JobDir: m.JobDir, Job: m.Bound, Nodes: m.Nodes,
		Restart: m.Restart, Served: m.Served, Starts: m.Starts, Registered: m.Registered.At, Expires: m.Expires}
}

// manifestOf reads the digest in a path.
func manifestOf(path string) (manifest.Digest, error) {
	d, err := manifest.ParseDigest(path)
	if err != nil {
		return d, service.Refuse(keyapi.CodeBadRequest, "%.80q is not a manifest's digest", path)
	}
	return d, nil
}
