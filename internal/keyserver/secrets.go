package keyserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
	"github.com/sealbatch/sealbatch/internal/text"
)

const (
	bucketSecrets = "secrets" // by volume id: secretRecord
	bucketOwned   = "owned"   // by account/volume id: empty
	bucketNames   = "names"   // by nameKey: volume id of the newest version of a sealed file
)

// secretRecord is a deposited secret without its key.
type secretRecord struct {
	VolumeID string          `json:"volume_id"`
	Name     string          `json:"name"` // what jobs mount it as
	File     string          `json:"file"` // name of the sealed file
	Kind     manifest.Kind   `json:"kind"`
	Digest   manifest.Digest `json:"digest"`
	Size     int64           `json:"size"`
	Owner    string          `json:"owner"` // account id
	Created  time.Time       `json:"created"`
	Policy   terms           `json:"policy"` // the rest is in bucketPolicies
	// PolicySet is the owner's request that put it there.
	PolicySet    attest.Authority `json:"policy_set"`
	Released     int              `json:"released"`
	Revoked      bool             `json:"revoked"`
	SupersededBy string           `json:"superseded_by"`
	Image        manifest.Digest  `json:"image,omitzero"` // of the container image in it, by the owner's word
	// Acts and Tries count entries of the volume's history.
	Acts  int `json:"acts"`
	Tries int `json:"tries"`
}

func (s secretRecord) info(p manifest.Policy) keyapi.SecretInfo {
	return keyapi.SecretInfo{
		VolumeID: s.VolumeID, Name: s.Name, File: s.File, Kind: s.Kind, Digest: s.Digest, Size: s.Size, Owner: s.Owner,
		Path: keyapi.SecretPath(s.VolumeID), Created: s.Created, Policy: p, PolicyDigest: s.Policy.Digest,
		PolicyKey: s.PolicySet.Key, Released: s.Released, Revoked: s.Revoked, SupersededBy: s.SupersededBy,
		Image: s.Image,
	}
}

// nameKey returns the record key of a sealed file's name: hashed, since names can be telling and
// record keys are not sealed.
func nameKey(account, kind, name string) string {
	h := sha256.Sum256([]byte(account + "\x00" + kind + "\x00" + name))
	return hex.EncodeToString(h[:])
}

// notInNames reports whether a volume's name cannot hold a rune: what no file's name holds, and what steers a terminal.
func notInNames(r rune) bool { return r == '/' || text.Steers(r) }

func isFileName(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, notInNames)
}

// depositOf reads and checks the body of PUT /v1/secrets/{volume}.
func depositOf(q *request, now time.Time) (secretRecord, keyapi.Secret, error) {
	var body keyapi.Secret
	if err := q.decode(&body); err != nil {
		return secretRecord{}, body, err
	}
	bad := func(format string, args ...any) (secretRecord, keyapi.Secret, error) {
		return secretRecord{}, body, service.Refuse(keyapi.CodeBadRequest, format, args...)
	}
	switch {
	case len(body.Key) != keyapi.SecretKeyLen:
		return bad("key of %d bytes, not %d", len(body.Key), keyapi.SecretKeyLen)
	case body.Kind != manifest.KindDataset && body.Kind != manifest.KindImage:
		return bad("kind %.40q is neither dataset nor image", body.Kind)
	case !isFileName(body.Name) || !isFileName(body.File):
		return bad("name %.80q or %.80q is not a file name", body.Name, body.File)
	case body.Digest.IsZero():
		return bad("no digest")
	case body.Size <= 0:
		return bad("size %d is not positive", body.Size)
	}
	if body.Kind != manifest.KindImage && !body.Image.IsZero() {
		return bad("the digest of a container image, for a volume of kind %s", body.Kind)
	}
	if err := checkPolicy(body.Policy); err != nil {
		return secretRecord{}, body, err
	}
	return secretRecord{
		VolumeID: q.volume, Name: body.Name, File: body.File, Kind: body.Kind, Digest: body.Digest, Size: body.Size,
		Owner: q.caller.account.ID, Created: now.UTC(), Image: body.Image,
	}, body, nil
}

// putSecret answers PUT /v1/secrets/{volume}. The same deposit again is no
// error and sets name and policy anew; the newest volume of a file supersedes the
// one before.
func (s *Server) putSecret(q *request) (any, error) {
	rec, body, err := depositOf(q, s.now())
	defer clear(body.Key)
	if err != nil {
		return nil, err
	}
	leave, err := s.volumes.enter(q.ctx, rec.VolumeID)
	if err != nil {
		return nil, err
	}
	defer leave()
	conflict := service.Refuse(keyapi.CodeConflict,
		"volume %s was deposited before, by somebody else or with another key, digest or file", rec.VolumeID).
		WithHint("seal the volume again: a new one gets an id of its own")
	// Looked at before the key is stored, so that a stranger's deposit leaves
	// nothing behind; decided below.
	err = s.store.View(q.ctx, func(r store.Reader) error { return s.mayDeposit(r, q, rec, conflict) })
	ev := q.event("secret.put", audit.OutcomeDone)
	switch {
	case errors.Is(err, conflict):
		_, err = q.commit(ev, func(w store.Writer) error { return q.noteTry(w, err) })
		return nil, err
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	switch err := s.keys.PutKey(q.ctx, rec.VolumeID, body.Key); {
	case errors.Is(err, store.ErrKeyExists):
		return nil, conflict
	case err != nil:
		return nil, err
	}
	_, err = q.commit(ev, func(w store.Writer) error { return s.recordDeposit(w, q, &rec, body.Policy, conflict) })
	if err != nil {
		return nil, errors.Join(err, s.forgetKey(q))
	}
	return rec.info(body.Policy), nil
}

// recordDeposit records what putSecret does, and changes rec to what is kept.
func (s *Server) recordDeposit(w store.Writer, q *request, rec *secretRecord, p manifest.Policy, conflict error) (err error) {
	known := s.mayDeposit(w, q, *rec, conflict)
	if errors.Is(known, conflict) {
		return q.noteTry(w, known)
	}
	if known != nil && !errors.Is(known, store.ErrNotFound) {
		return known
	}
	if rec.Policy, err = storePolicy(w, q.ev, rec.VolumeID, p); err != nil {
		return err
	}
	if rec.PolicySet, err = q.caller.forPolicies(w); err != nil {
		return err
	}
	act, err := q.policyAct(keyapi.LogDeposited, q.ev, s.now())
	if err != nil {
		return err
	}
	if known != nil {
		return deposit(w, rec, act)
	}
	act.Event = keyapi.LogPolicy
	return updateSecret(w, rec.VolumeID, func(old *secretRecord) error {
		old.Name, old.Policy, old.PolicySet = rec.Name, rec.Policy, rec.PolicySet
		*rec = *old
		return addAct(w, old, act)
	})
}

// forgetKey destroys the key of a deposit that was not recorded in the end.
func (s *Server) forgetKey(q *request) error {
	err := s.store.View(context.WithoutCancel(q.ctx), func(r store.Reader) error {
		_, err := r.Get(bucketSecrets, q.volume)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return s.keys.DestroyKey(context.WithoutCancel(q.ctx), q.volume)
	}
	return nil
}

// mayDeposit returns what sameDeposit does, or a refusal if something new is one
// too many.
func (s *Server) mayDeposit(g getter, q *request, rec secretRecord, conflict error) error {
	if err := neverAgain(g, rec.VolumeID); err != nil {
		return err
	}
	err := sameDeposit(g, rec, conflict)
	if errors.Is(err, store.ErrNotFound) {
		if full := room(g, q.caller.account, countSecrets, s.limits.Secrets); full != nil {
			return full
		}
	}
	return err
}

// sameDeposit returns nil if rec was deposited before, conflict if something else
// was, store.ErrNotFound if nothing was.
func sameDeposit(g getter, rec secretRecord, conflict error) error {
	var old secretRecord
	if err := getJSON(g, bucketSecrets, rec.VolumeID, &old); err != nil {
		return err
	}
	if old.Owner != rec.Owner || old.Digest != rec.Digest || old.File != rec.File || old.Kind != rec.Kind || old.Size != rec.Size ||
		old.Image != rec.Image {
		return conflict
	}
	if old.Revoked {
		return service.Refuse(keyapi.CodeConflict, "volume %s was revoked: its key is not taken in again", rec.VolumeID).
			WithHint("seal the data again: a new volume gets an id of its own")
	}
	return nil
}

// deposit records a new secret, with what its history begins with.
func deposit(w store.Writer, rec *secretRecord, act keyapi.LogEntry) error {
	name := nameKey(rec.Owner, string(rec.Kind), rec.File)
	before, err := w.Get(bucketNames, name)
	if err == nil {
		err = updateSecret(w, string(before), func(old *secretRecord) error {
			old.SupersededBy = rec.VolumeID
			return addAct(w, old, keyapi.LogEntry{Time: act.Time, Event: keyapi.LogSuperseded, Account: act.Account, Key: act.Key,
				Reason: "by volume " + rec.VolumeID})
		})
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return errors.Join(
		addAct(w, rec, act),
		w.Put(bucketNames, name, []byte(rec.VolumeID)),
		w.Put(bucketOwned, rec.Owner+"/"+rec.VolumeID, nil),
		count(w, rec.Owner, countSecrets, 1),
		putJSON(w, bucketSecrets, rec.VolumeID, rec))
}

func updateSecret(w store.Writer, volume string, change func(*secretRecord) error) error {
	var s secretRecord
	if err := getJSON(w, bucketSecrets, volume, &s); err != nil {
		return err
	}
	if err := change(&s); err != nil {
		return err
	}
	return putJSON(w, bucketSecrets, volume, s)
}

// ownSecret reads a secret of the caller's. Those of others do not exist for them.
func ownSecret(g getter, q *request) (secretRecord, error) {
	var rec secretRecord
	err := getJSON(g, bucketSecrets, q.volume, &rec)
	if errors.Is(err, store.ErrNotFound) || err == nil && rec.Owner != q.caller.account.ID {
		return rec, service.Refuse(keyapi.CodeNotFound, "this account deposited no volume %s", q.volume)
	}
	return rec, err
}

func (s *Server) getSecret(q *request) (any, error) {
	var info keyapi.SecretInfo
	_, err := q.commit(q.event("secret.get", audit.OutcomeDone), func(w store.Writer) error {
		rec, err := ownSecretNoted(w, q)
		if err == nil {
			info, err = s.infoOf(w, rec)
		}
		return err
	})
	return info, err
}

// infoOf returns what the owner sees of a record.
func (s *Server) infoOf(g getter, rec secretRecord) (keyapi.SecretInfo, error) {
	p, err := policyOf(g, rec)
	if err != nil {
		return keyapi.SecretInfo{}, err
	}
	void, err := reason(s.standsPolicy(g, rec))
	info := rec.info(p)
	info.PolicyVoid = void != ""
	return info, err
}

// changeSecret lets the owner change a secret's record.
func (s *Server) changeSecret(q *request, event string, change func(store.Writer, *secretRecord) error) (any, error) {
	var info keyapi.SecretInfo
	_, err := q.commit(q.event(event, audit.OutcomeDone), func(w store.Writer) error {
		rec, err := ownSecretNoted(w, q)
		if err != nil {
			return err
		}
		if err := change(w, &rec); err != nil {
			return err
		}
		if info, err = s.infoOf(w, rec); err != nil {
			return err
		}
		return putJSON(w, bucketSecrets, q.volume, rec)
	})
	return info, err
}

// putPolicy answers PUT /v1/secrets/{volume}/policy. With a query if=DIGEST it is
// refused where another policy is in force: somebody has changed it meanwhile.
func (s *Server) putPolicy(q *request) (any, error) {
	var p manifest.Policy
	if err := q.decode(&p); err != nil {
		return nil, err
	}
	if err := checkPolicy(p); err != nil {
		return nil, err
	}
	expected, err := expectedPolicy(q.query)
	if err != nil {
		return nil, err
	}
	_, digest, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return s.changeSecret(q, "secret.policy", func(w store.Writer, r *secretRecord) (err error) {
		if err := mayChangePolicy(*r, expected, digest); err != nil {
			return err
		}
		if r.Policy, err = storePolicy(w, q.ev, r.VolumeID, p); err != nil {
			return err
		}
		if r.PolicySet, err = q.caller.forPolicies(w); err != nil {
			return err
		}
		act, err := q.policyAct(keyapi.LogPolicy, q.ev, s.now())
		if err != nil {
			return err
		}
		return addAct(w, r, act)
	})
}

// expectedPolicy reads the query of putPolicy; the zero digest is any policy.
func expectedPolicy(query string) (d manifest.Digest, err error) {
	if query == "" {
		return d, nil
	}
	values, err := url.ParseQuery(query)
	if err == nil && len(values) == 1 && len(values["if"]) == 1 {
		d, err = manifest.ParseDigest(values["if"][0])
	}
	if err != nil || d.IsZero() {
		return d, service.Refuse(keyapi.CodeBadRequest, "query %.80q is not if=DIGEST, a policy's", query)
	}
	return d, nil
}

// mayChangePolicy refuses to change what is final, or is not what the owner has seen;
// where next is in force already, the owner may have lost the answer.
func mayChangePolicy(r secretRecord, expected, next manifest.Digest) error {
	switch {
	case r.Revoked:
		return service.Refuse(keyapi.CodePolicy, "volume %s was revoked: its key is destroyed, and no policy opens it again", r.VolumeID).
			WithHint("seal the data again: a new volume gets an id of its own")
	case !expected.IsZero() && expected != r.Policy.Digest && next != r.Policy.Digest:
		return service.Refuse(keyapi.CodeChanged, "the policy of volume %s was changed meanwhile, and stays as it is now", r.VolumeID).
			WithHint("look at it (sealbatch policy show), and change it again if that is still wanted")
	}
	return nil
}
