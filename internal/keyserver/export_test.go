package keyserver

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// AttestorOf returns a server's attestor for a type of evidence.
func AttestorOf(s *Server, typ string) attest.Attestor { return s.attestors[typ] }

// Purge removes outdated records, as the service does at intervals.
func Purge(ctx context.Context, s *Server) (int, error) { return s.purge(ctx) }

// FinishDestructions destroys what could not be destroyed, as the service does at
// intervals.
func FinishDestructions(ctx context.Context, s *Server) error { return s.finishDestructions(ctx) }

// Scrub wipes former records, as the service does soon after a deletion.
func Scrub(ctx context.Context, s *Server) { s.scrub(ctx) }

// LimitChanges lets an account, whose name is given, change so much from now on.
func LimitChanges(s *Server, name string, units int) {
	l := s.commits.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget(s.accounts.in.ids[name].ID).changes = rate.NewLimiter(0, units)
}

// Records counts a server's records by bucket; audit-head and identity aside.
func Records(ctx context.Context, s *Server) (map[string]int, error) {
	out := map[string]int{}
	err := s.store.View(ctx, func(r store.Reader) error {
		for _, b := range []string{token.Bucket, attest.SingleUses, bucketManifests, bucketPrivate, bucketReleases, bucketRepeats,
			bucketSecrets, bucketDeleted, bucketNonces, bucketHistory, bucketWaiting, bucketJobs} {
			if err := r.Each(b, "", func(string, []byte) error { out[b]++; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// PlantSecrets has an account own n volumes, named 1 to n in the order of their ids.
func PlantSecrets(s *Server, name string, n int) error {
	var ops []*operation
	for i := 0; i < n; i += 200 {
		last := min(i+200, n)
		ops = append(ops, &operation{event: &audit.Event{Event: "plant", Outcome: audit.OutcomeDone}, op: func(w store.Writer) error {
			var acc account
			errs := []error{getJSON(w, bucketAccounts, name, &acc)}
			for i := i + 1; i <= last; i++ {
				rec := secretRecord{VolumeID: fmt.Sprintf("%032x", i), Name: fmt.Sprint(i), File: fmt.Sprint(i), Owner: acc.ID, Policy: terms{Tier: manifest.TierC}}
				errs = append(errs, w.Put(bucketOwned, rec.Owner+"/"+rec.VolumeID, nil), putJSON(w, bucketSecrets, rec.VolumeID, rec))
			}
			return errors.Join(errs...)
		}})
	}
	return s.commits.doAll(ops)
}

// PlantJobs registers n jobs more like the one with that manifest.
func PlantJobs(s *Server, like manifest.Digest, n int) error {
	_, err := s.commits.do(&audit.Event{Event: "plant", Outcome: audit.OutcomeDone}, func(w store.Writer) error {
		var m manifestRecord
		if err := getJSON(w, bucketManifests, like.String(), &m); err != nil {
			return err
		}
		for i := range n {
			m.Digest = manifest.DigestOf(fmt.Append(nil, i))
			err := errors.Join(putJSON(w, bucketManifests, m.Digest.String(), m), w.Put(bucketWaiting, m.waitingKeys()[0], nil))
			if m.Bound != nil {
				err = errors.Join(err, w.Put(bucketJobs, m.jobKey(m.Bound.ID), nil))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// HistoryPage reads a page of a volume's history.
func HistoryPage(ctx context.Context, s *Server, volume, after string, limit int) (out keyapi.SecretLog, err error) {
	err = s.store.View(ctx, func(r store.Reader) error { return readHistory(r, volume+"/", after, limit, &out) })
	return out, err
}
