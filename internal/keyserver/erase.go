package keyserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketDeleted holds a tombstone for each deleted volume, by its id.
const bucketDeleted = "deleted"

// keepDeleted is how long a tombstone stays. A backup of the keys that is older
// must not be there any more: put back, its keys would not be destroyed again.
const keepDeleted = 2 * 365 * 24 * time.Hour

// tombstone is what is left of a deleted volume.
type tombstone struct {
	Owner   string    `json:"owner"` // account id
	Deleted time.Time `json:"deleted"`
}

// noSecret returns a refusal that says why there is no record of a volume.
func noSecret(g getter, volume, never string) error {
	var t tombstone
	switch err := getJSON(g, bucketDeleted, volume, &t); {
	case errors.Is(err, store.ErrNotFound):
		return service.Refuse(keyapi.CodeNotFound, "volume %s %s", volume, never)
	case err != nil:
		return err
	}
	return service.Refuse(keyapi.CodePolicy, "volume %s was deleted by its owner, its key is destroyed", volume)
}

// neverAgain refuses to take in the key of a volume whose key was destroyed.
func neverAgain(g getter, volume string) error {
	var t tombstone
	switch err := getJSON(g, bucketDeleted, volume, &t); {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return service.Refuse(keyapi.CodeConflict, "volume %s was deleted here on %s: its key is not taken in again", volume,
		t.Deleted.UTC().Format(time.DateOnly)).WithHint("seal the data again: a new volume gets an id of its own")
}

// destroyed reports whether the records want a volume's key to be destroyed. A key
// of which they know nothing stays: they may be an older state, put back by mistake.
func destroyed(g getter, volume string) (bool, error) {
	var rec secretRecord
	err := getJSON(g, bucketSecrets, volume, &rec)
	if errors.Is(err, store.ErrNotFound) {
		_, err = g.Get(bucketDeleted, volume)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	return rec.Revoked, err
}

// revokeSecret answers POST /v1/secrets/{volume}/revoke. It is final: nothing is
// released any more, durably, and then the key is destroyed.
func (s *Server) revokeSecret(q *request) (any, error) {
	leave, err := s.volumes.enter(q.ctx, q.volume)
	if err != nil {
		return nil, err
	}
	defer leave()
	answer, err := s.changeSecret(q, "secret.revoke", func(w store.Writer, r *secretRecord) error {
		r.Revoked = true
		return addAct(w, r, q.act(keyapi.LogRevoked, s.now()))
	})
	if err != nil {
		return nil, err
	}
	return answer, s.destroyKey(q)
}

// deleteSecret answers DELETE /v1/secrets/{volume}: as revokeSecret, and the record
// is forgotten. A tombstone stays, and the name's older volumes stay superseded.
func (s *Server) deleteSecret(q *request) (any, error) {
	leave, err := s.volumes.enter(q.ctx, q.volume)
	if err != nil {
		return nil, err
	}
	defer leave()
	_, err = q.commit(q.event("secret.delete", audit.OutcomeDone), func(w store.Writer) error { return s.forget(w, q) })
	if err != nil {
		return nil, err
	}
	s.scrubSoon()
	return keyapi.Deleted{VolumeID: q.volume}, s.destroyKey(q)
}

func (s *Server) forget(w store.Writer, q *request) error {
	var t tombstone
	if err := getJSON(w, bucketDeleted, q.volume, &t); err == nil && t.Owner == q.caller.account.ID {
		return nil // whoever asks again did not get the answer
	}
	rec, err := ownSecretNoted(w, q)
	if err != nil {
		return err
	}
	if err := room(w, q.caller.account, countDeleted, s.limits.Deleted); err != nil {
		return err
	}
	name := nameKey(rec.Owner, string(rec.Kind), rec.File)
	newest, err := w.Get(bucketNames, name)
	if err == nil && string(newest) == rec.VolumeID {
		err = w.Delete(bucketNames, name)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return errors.Join(
		w.Delete(bucketSecrets, rec.VolumeID),
		w.Delete(bucketPolicies, rec.VolumeID),
		w.Delete(bucketOwned, rec.Owner+"/"+rec.VolumeID),
		count(w, rec.Owner, countSecrets, -1),
		count(w, rec.Owner, countDeleted, 1),
		putJSON(w, bucketDeleted, rec.VolumeID, tombstone{Owner: rec.Owner, Deleted: s.now().UTC()}))
}

// destroyKey destroys the key of the request's volume, which the records have
// given up, and writes that down, once.
func (s *Server) destroyKey(q *request) error {
	key, had := s.keys.Key(q.ctx, q.volume)
	clear(key)
	if err := s.keys.DestroyKey(context.WithoutCancel(q.ctx), q.volume); err != nil {
		s.undestroyed.Store(&q.volume)
		s.log.Error("a key was not destroyed yet", "volume", q.volume, "error", err)
		return service.Refuse(keyapi.CodeUnavailable,
			"nothing is released of volume %s any more, but its key is not destroyed yet", q.volume).
			WithHint("ask again; the service tries again by itself, too")
	}
	if errors.Is(had, store.ErrNotFound) && s.undestroyed.Load() == nil {
		return nil
	}
	done := *q.ev
	done.Event, done.Outcome, done.Reason = "key.destroy", audit.OutcomeDone, ""
	_, err := s.commits.do(&done, nil)
	return err
}

// finishDestructions destroys the keys that the records want destroyed and that
// are there all the same: the service died before it came to them, the disk
// failed, or an older copy of the keys was put back.
func (s *Server) finishDestructions(ctx context.Context) error {
	var condemned []string
	failed := s.undestroyed.Swap(nil)
	if failed != nil { // EachKey does not name it if it is half destroyed
		condemned = append(condemned, *failed)
	}
	err := s.store.View(ctx, func(r store.Reader) error {
		return s.keys.EachKey(ctx, func(volume string) error {
			yes, err := destroyed(r, volume)
			if yes && err == nil {
				condemned = append(condemned, volume)
			}
			return err
		})
	})
	for _, volume := range condemned {
		if e := s.keys.DestroyKey(ctx, volume); e != nil {
			failed, err = &volume, errors.Join(err, e)
		}
	}
	if err != nil {
		s.undestroyed.Store(failed)
		return fmt.Errorf("finish the destruction of keys: %w", err)
	}
	const each = 1000 // volumes that one entry of the log names
	for len(condemned) > 0 {
		n := min(each, len(condemned))
		e := &audit.Event{Event: "key.destroy", Outcome: audit.OutcomeDone, Volumes: condemned[:n],
			Reason: "keys that were to be destroyed before were still there"}
		if _, err := s.commits.do(e, nil); err != nil {
			return err
		}
		condemned = condemned[n:]
	}
	return nil
}

// scrubEvery is the least time between two scrubs that deletions ask for: each
// reads all of the store's file that is free.
const scrubEvery = time.Minute

// lastScrub is how long the last one may wait for readers.
const lastScrub = 5 * time.Second

// scrubSoon has what the records no longer hold wiped from their file.
func (s *Server) scrubSoon() {
	select {
	case s.unwiped <- struct{}{}:
	default: // asked for already
	}
}

func (s *Server) scrub(ctx context.Context) {
	st, ok := s.store.(store.Scrubber)
	if !ok {
		return
	}
	if err := st.Scrub(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("former records were not wiped from the store's file", "error", err)
	}
}

// scrubIfAsked does what scrubUntil did not come to, at the service's end.
func (s *Server) scrubIfAsked() {
	select {
	case <-s.unwiped:
		ctx, cancel := context.WithTimeout(context.Background(), lastScrub)
		defer cancel()
		s.scrub(ctx)
	default:
	}
}

// scrubUntil scrubs, when it is asked to, until ctx ends.
func (s *Server) scrubUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unwiped:
		}
		s.scrub(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(scrubEvery):
		}
	}
}
