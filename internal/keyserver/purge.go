package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/keyserver/token"
)

// How long records outlive their use.
const (
	purgeEvery = time.Hour
	// keepManifest is how long an expired manifest is still told from one that
	// was never registered; its private part goes as soon as no repeat can need it.
	keepManifest = 30 * 24 * time.Hour
	// keepRelease is how long a release is recorded, so that the same job cannot claim
	// again: until every manifest that was registered by then has expired, and a day
	// more, for clocks that are set. It is not longer since Slurm gives out a number
	// again some day. The secret's own count of releases stays.
	keepRelease = keyapi.MaxManifestLife + 24*time.Hour
	// keepSingleUse does the same for evidence that is good once and that no record of
	// its own ends before.
	keepSingleUse = 365 * 24 * time.Hour
	// purgeBatch bounds what one transaction removes, since decisions wait for it.
	purgeBatch = 500
	// purgeMost bounds those that are looked for at once, in memory.
	purgeMost = 20_000
)

// record names a record of the store that goes, and what its account has less
// when it is gone.
type record struct {
	bucket, key, account string
	less                 []share
}

// share is how many of a kind count for a record.
type share struct {
	kind string
	n    int
}

// remove removes a record, unless somebody else did meanwhile.
func (o record) remove(w store.Writer) error {
	_, err := w.Get(o.bucket, o.key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	for _, l := range o.less {
		err = errors.Join(err, count(w, o.account, l.kind, -l.n))
	}
	return errors.Join(err, w.Delete(o.bucket, o.key))
}

// purge removes records that can no longer change a decision, so that a
// service that runs for years holds those of its last year at most. It returns
// how many it removed.
func (s *Server) purge(ctx context.Context) (int, error) {
	for sum := 0; ; {
		n, err := s.purgeSome(ctx)
		if sum += n; err != nil || n < purgeMost {
			return sum, err
		}
	}
}

// purgeSome removes as many as are held in memory at once.
func (s *Server) purgeSome(ctx context.Context) (int, error) {
	var old []record
	err := s.store.View(ctx, func(r store.Reader) (err error) {
		old, err = outdated(r, s.now())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look for outdated records: %w", err)
	}
	for from := 0; from < len(old); from += purgeBatch {
		some := old[from:min(from+purgeBatch, len(old))]
		_, err := s.commits.do(&audit.Event{Event: "purge", Outcome: audit.OutcomeDone}, func(w store.Writer) error {
			var errs []error
			for _, o := range some {
				errs = append(errs, o.remove(w))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return from, fmt.Errorf("remove outdated records: %w", err)
		}
	}
	return len(old), nil
}

// errEnough ends a search.
var errEnough = errors.New("enough")

// outdated lists records that go, purgeMost or a few more. None of them is ever
// given a later time.
func outdated(r store.Reader, now time.Time) (old []record, err error) {
	for _, of := range []struct {
		bucket string
		look   func(r store.Reader, now time.Time, key string, b []byte) ([]record, error)
	}{{token.Bucket, oldToken}, {bucketRepeats, oldRepeat}, {bucketManifests, oldManifest}, {bucketReleases, oldRelease},
		{bucketDeleted, oldTombstone}, {bucketNonces, oldNonce}, {attest.SingleUses, oldSingleUse}} {
		e := r.Each(of.bucket, "", func(key string, b []byte) error {
			found, err := of.look(r, now, key, b)
			if old = append(old, found...); err != nil {
				return fmt.Errorf("record in %s: %w", of.bucket, err)
			}
			if len(old) >= purgeMost {
				return errEnough
			}
			return nil
		})
		if errors.Is(e, errEnough) {
			return old, err
		}
		err = errors.Join(err, e)
	}
	return old, err
}

// oldToken lets a token go with its use: that was refused once the token had
// expired, and is when it is unknown.
func oldToken(_ store.Reader, now time.Time, id string, b []byte) ([]record, error) {
	var t token.Record
	if err := json.Unmarshal(b, &t); err != nil || now.Before(t.Expires) {
		return nil, err
	}
	return []record{{token.Bucket, id, t.Account.ID, []share{{countTokens, 1}}},
		{bucket: attest.SingleUses, key: attest.SingleUseKey(keyapi.EvidenceToken, id)}}, nil
}

func oldRepeat(_ store.Reader, now time.Time, name string, b []byte) ([]record, error) {
	var t struct{ Until time.Time }
	if err := json.Unmarshal(b, &t); err != nil || now.Before(t.Until) {
		return nil, err
	}
	return []record{{bucket: bucketRepeats, key: name}}, nil
}

func oldManifest(r store.Reader, now time.Time, digest string, b []byte) (old []record, err error) {
	var m manifestRecord
	if err := json.Unmarshal(b, &m); err != nil || now.Before(m.Expires.Add(keyapi.RepeatTTL)) {
		return nil, err
	}
	private, err := r.Get(bucketPrivate, digest)
	switch {
	case err == nil: // the last, so that what is left of the others is found again
		for _, key := range m.waitingKeys() {
			old = append(old, record{bucket: bucketWaiting, key: key})
		}
		old = append(old, record{bucketPrivate, digest, m.Account, []share{{countBytes, len(private)}}})
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	if now.Before(m.Expires.Add(keepManifest)) {
		return old, nil
	}
	if m.Bound != nil {
		old = append(old, record{bucket: bucketJobs, key: m.jobKey(m.Bound.ID)})
	}
	return append(old, record{bucketManifests, digest, m.Account, []share{{countManifests, 1}, {countBytes, m.Bytes}}}), nil
}

func oldRelease(_ store.Reader, now time.Time, key string, b []byte) ([]record, error) {
	var t releaseRecord
	if err := json.Unmarshal(b, &t); err != nil || now.Before(t.At.Add(keepRelease)) {
		return nil, err
	}
	return []record{{bucketReleases, key, t.Account, []share{{countReleases, 1}}}}, nil
}

func oldSingleUse(_ store.Reader, now time.Time, key string, b []byte) ([]record, error) {
	var at time.Time
	if err := json.Unmarshal(b, &at); err != nil || now.Before(at.Add(keepSingleUse)) {
		return nil, err
	}
	return []record{{bucket: attest.SingleUses, key: key}}, nil
}

// oldTombstone lets a deleted volume's history go, and the tombstone much later.
func oldTombstone(r store.Reader, now time.Time, volume string, b []byte) (old []record, err error) {
	var t tombstone
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, err
	}
	err = r.Each(bucketHistory, volume+"/", func(key string, _ []byte) error {
		old = append(old, record{bucket: bucketHistory, key: key})
		return nil
	})
	if err != nil || now.Before(t.Deleted.Add(keepDeleted)) {
		return old, err
	}
	return append(old, record{bucketDeleted, volume, t.Owner, []share{{countDeleted, 1}}}), nil
}

// purgeUntil purges at intervals until ctx ends.
func (s *Server) purgeUntil(ctx context.Context) {
	tick := time.NewTicker(purgeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, err := s.purge(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.Error("outdated records were not removed", "error", err)
		case n > 0:
			s.log.Info("outdated records removed", "records", n)
			s.scrubSoon()
		}
		if s.undestroyed.Load() != nil {
			if err := s.finishDestructions(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("keys were not destroyed yet", "error", err)
			}
		}
	}
}
