package keyserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketHistory holds the part of the audit log that a volume's owner may read, as
// keyapi.LogEntry, written in the transaction that it tells of:
//
//	VOLUME/a/NUMBER        the owner's acts: the first, and the newest
//	VOLUME/k/NUMBER        releases of its key, the newest; NUMBER counts them from 1
//	VOLUME/t/ACCOUNT/USER  a submitter, and a user whom evidence showed, who were refused
//	VOLUME/t/others        all who were refused, when too many were
//
// So a volume has a bounded number of them, whatever others do, and nobody can push out
// what shows an attempt of theirs but by releases that the policy permits. They end
// with the volume.
const bucketHistory = "history"

// How much of a volume's history is kept; the audit log has all of it.
const (
	keepActs     = 64
	keepReleases = 4096
	keepTries    = 256
	// tryEvery is how often one who is refused again and again is written down.
	tryEvery = time.Minute
)

func actKey(volume string, n int) string      { return fmt.Sprintf("%s/a/%012d", volume, n) }
func releasedKey(volume string, n int) string { return fmt.Sprintf("%s/k/%012d", volume, n) }

// addAct adds to the history of a volume, whose record the caller stores.
func addAct(w store.Writer, rec *secretRecord, e keyapi.LogEntry) error {
	rec.Acts++
	err := putJSON(w, bucketHistory, actKey(rec.VolumeID, rec.Acts), e)
	if n := rec.Acts - keepActs + 1; n > 1 {
		err = errors.Join(err, w.Delete(bucketHistory, actKey(rec.VolumeID, n)))
	}
	return err
}

// act returns an entry about what the caller did.
func (q *request) act(event string, now time.Time) keyapi.LogEntry {
	return keyapi.LogEntry{Time: now.UTC(), Event: event, Account: q.caller.account.Name, Key: q.caller.key}
}

// policyAct is act for a policy that was set as an audit event has it.
func (q *request) policyAct(event string, ev *audit.Event, now time.Time) (e keyapi.LogEntry, err error) {
	e = q.act(event, now)
	var before []byte
	if ev.PolicyBefore != nil {
		before = ev.PolicyBefore.Content
	}
	e.Policy = ev.Policy.Digest
	e.Changes, err = manifest.PolicyChanges(before, ev.Policy.Content)
	return e, err
}

// claimed returns an entry about a job that claimed keys.
func claimed(event string, m manifestRecord, c attest.Claims, now time.Time) keyapi.LogEntry {
	return keyapi.LogEntry{Time: now.UTC(), Event: event, Account: m.Submitter, User: c.User, Node: c.Node, Job: &c.Job,
		Attestor: c.Attestor, Tier: c.Tier.String()}
}

// addRelease adds the release that made rec.Released what it is.
func addRelease(w store.Writer, rec secretRecord, m manifestRecord, c attest.Claims, now time.Time) error {
	e := claimed(keyapi.LogReleased, m, c, now)
	e.Policy = rec.Policy.Digest.String()
	err := putJSON(w, bucketHistory, releasedKey(rec.VolumeID, rec.Released), e)
	if n := rec.Released - keepReleases; n > 0 {
		err = errors.Join(err, w.Delete(bucketHistory, releasedKey(rec.VolumeID, n)))
	}
	return err
}

// addTry adds to the history of a volume that somebody was refused, unless it was the
// owner's own request.
func addTry(w store.Writer, volume, account string, e keyapi.LogEntry) error {
	var rec secretRecord
	err := getJSON(w, bucketSecrets, volume, &rec)
	if errors.Is(err, store.ErrNotFound) {
		return nil // it was deleted meanwhile
	}
	if err != nil || rec.Owner == account && e.Job == nil {
		return err
	}
	key := fmt.Sprintf("%s/t/%s/%s", volume, account, e.User)
	err = addAgain(w, key, e)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if rec.Tries >= keepTries {
		key = volume + "/t/others"
		if err := addAgain(w, key, e); !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	rec.Tries++
	e.Times = 1
	return errors.Join(putJSON(w, bucketSecrets, volume, rec), putJSON(w, bucketHistory, key, e))
}

// addAgain brings the entry of a key up to date; store.ErrNotFound if there is none.
func addAgain(w store.Writer, key string, e keyapi.LogEntry) error {
	var old keyapi.LogEntry
	if err := getJSON(w, bucketHistory, key, &old); err != nil {
		return err
	}
	last := old.Time
	if old.Last != nil {
		last = *old.Last
	}
	if e.Time.Sub(last) < tryEvery {
		return nil
	}
	at := e.Time
	e.Time, e.Last, e.Times = old.Time, &at, old.Times+1
	return putJSON(w, bucketHistory, key, e)
}

// addTries has the owners of a job's volumes know that its claim was refused. Why, is
// told to all if it is the job's, but to one owner if it is by that one's policy.
func (g grant) addTries(w store.Writer, refused error, now time.Time) error {
	refusal, ok := errors.AsType[*service.Refusal](refused)
	if !ok {
		return nil // a fault of the service's own
	}
	var errs []error
	for _, v := range g.manifest.Volumes {
		e := claimed(keyapi.LogRefused, g.manifest, g.claims, now)
		e.Reason = auditReason(refusal)
		if g.refusing != "" && g.refusing != v.ID {
			e.Reason = "another volume of the job was refused"
		}
		errs = append(errs, addTry(w, v.ID, g.manifest.Account, e))
	}
	return errors.Join(errs...)
}

// noteTry has a volume's owner know that somebody else asked for what is the owner's
// alone, and returns the refusal. It is a change like any of that account's, of which
// there may not be too many.
func (q *request) noteTry(w store.Writer, refused error) error {
	if q.srv.commits.lines.change(q.who(), 1) != nil {
		return refused
	}
	e := q.act(keyapi.LogRefused, q.srv.now())
	e.Reason = q.ev.Event + " is its owner's alone"
	if err := addTry(w, q.volume, q.caller.account.ID, e); err != nil {
		return err
	}
	return &recorded{refused}
}

// ownSecretNoted is ownSecret, and notes whose else's request it was.
func ownSecretNoted(w store.Writer, q *request) (secretRecord, error) {
	rec, err := ownSecret(w, q)
	if err != nil && rec.Owner != "" && rec.Owner != q.caller.account.ID {
		err = q.noteTry(w, err)
	}
	return rec, err
}

var historyCursorRE = regexp.MustCompile(`^[akt]/[^\x00-\x1f]{1,400}$`)

// secretLog answers GET /v1/secrets/{volume}/log.
func (s *Server) secretLog(q *request) (any, error) {
	after, limit, err := pageOf(q.query, historyCursorRE.MatchString)
	if err != nil {
		return nil, err
	}
	if after == "" { // of what is read page by page, the beginning is written down
		_, err := q.commit(q.event("secret.log", audit.OutcomeDone), func(w store.Writer) error {
			_, err := ownSecretNoted(w, q)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	out := keyapi.SecretLog{Entries: []keyapi.LogEntry{}}
	err = s.store.View(q.ctx, func(r store.Reader) error {
		if _, err := ownSecret(r, q); err != nil {
			return err
		}
		return readHistory(r, q.volume+"/", after, limit, &out)
	})
	return out, err
}

// readHistory reads a page of the history under prefix.
func readHistory(r store.Reader, prefix, after string, limit int, out *keyapi.SecretLog) error {
	last := ""
	err := r.EachAfter(bucketHistory, prefix, prefix+after, func(k string, b []byte) error {
		if len(out.Entries) == limit {
			out.Next = strings.TrimPrefix(last, prefix)
			return errPageFull
		}
		var e keyapi.LogEntry
		if err := json.Unmarshal(b, &e); err != nil {
			return fmt.Errorf("record in %s: %w", bucketHistory, err)
		}
		out.Entries, last = append(out.Entries, e), k
		return nil
	})
	if errors.Is(err, errPageFull) {
		return nil
	}
	return err
}
