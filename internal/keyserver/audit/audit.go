// Package audit is the key service's log of what it decided: a chain of signed
// entries that nobody without the service's statement key can edit, reorder or
// cut inside, and that shows to whoever keeps a signed head whether it was cut
// at the end. It also tells which records the store must hold, so that an old one
// that was put back is found (Records).
//
//	audit-000001.log   {"entry":{"seq":1,"batch":1,"prev":"GENESIS","segment":{...},...},"sig":"..."}
//	                   {"entry":{"seq":2,"batch":2,"prev":"HASH OF 1","changes":[...],...},"sig":"..."}
//	                   {"entry":{"seq":3,"batch":3,"prev":"HASH OF 2","more":true,...},"sig":"..."}
//	                   {"entry":{"seq":4,"batch":3,"prev":"HASH OF 3",...},"sig":"..."}
//	audit.log          {"entry":{"seq":5,"batch":4,"prev":"HASH OF 4","segment":{...},...},"sig":"..."}
//	                   {"entry":{"seq":6,"batch":5,"prev":"HASH OF 5",...},"sig":"..."}   <- head
//
// The log is a row of files, segments. Each begins with a digest over all records
// of the store, so that the ones before it are needed no more: they can be moved
// away. The service writes to the last one (Log.Rotate).
//
// The service keeps the head in its store, in the transaction that the entries
// tell of. So log and store agree, or the service died between its two writes:
// then the log goes on by one batch that lacks its last newline, which is written
// when the store has the batch. Nothing of such a batch was ever answered, and it
// is removed (Open). A batch that has its newline and is not in the store is a
// store that was put back.
package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Errors of the audit log.
var (
	// ErrBroken says that the log was edited, reordered or cut inside.
	ErrBroken = errors.New("audit log does not hold")
	// ErrRolledBack says that the log or the store is older than the other.
	ErrRolledBack = errors.New("audit log and store do not agree")
	// ErrHead says that a log does not contain a remembered head.
	ErrHead = errors.New("audit log does not contain the remembered head")
	// ErrAltered says that the store does not hold the records that the log tells of.
	ErrAltered = errors.New("the store's records are not those that the audit log tells of")
	// ErrWrite says that the log cannot be written; nothing is released.
	ErrWrite = errors.New("audit log cannot be written")
)

// Outcomes of an audited event.
const (
	OutcomeDone     = "done"
	OutcomeReleased = "released"
	OutcomeRepeated = "repeated" // the answer to a release was given again; it counts once
	OutcomeRefused  = "refused"
)

// Event is one entry of the audit log. It holds no secret.
//
// On disk an entry is a line {"entry":{...},"sig":"..."}: sig is an Ed25519
// signature by the service's statement key over "sealbatch-audit v1", a zero
// byte and the exact bytes of entry. Prev is the SHA-256 of the preceding
// entry's bytes, of the first one the SHA-256 of "sealbatch-audit v1", a zero
// byte and the statement key.
type Event struct {
	Seq   uint64    `json:"seq"`            // 1, 2, ...
	Batch uint64    `json:"batch"`          // entries of one transaction share it
	More  bool      `json:"more,omitempty"` // the batch goes on in the next entry
	Time  time.Time `json:"time"`
	Prev  string    `json:"prev"`

	Event     string        `json:"event"` // such as "release" or "secret.put"
	Outcome   string        `json:"outcome"`
	Reason    string        `json:"reason,omitempty"`
	Remote    string        `json:"remote,omitempty"`  // address of the peer, or of its relay
	Account   string        `json:"account,omitempty"` // id
	Key       string        `json:"key,omitempty"`     // fingerprint of the signer's SSH key
	User      string        `json:"user,omitempty"`    // attested, or the account's name
	UID       *int64        `json:"uid,omitempty"`
	Node      string        `json:"node,omitempty"`
	Job       *manifest.Job `json:"job,omitempty"`
	Manifest  string        `json:"manifest,omitempty"`
	Volumes   []string      `json:"volumes,omitempty"`
	Attestor  string        `json:"attestor,omitempty"`
	Tier      string        `json:"tier,omitempty"`
	Submitter string        `json:"submitter,omitempty"` // account that registered the manifest

	// Policy is what an owner set, PolicyBefore what it replaced.
	Policy       *Policy `json:"policy,omitempty"`
	PolicyBefore *Policy `json:"policy_before,omitempty"`
	// Policies are the digests of the policies by which a release let the keys of
	// Volumes go, in their order.
	Policies []string `json:"policies,omitempty"`

	// Changes are what it did to the store's records. A long list goes on in the
	// next entries, which have the same event.
	Changes []store.Change `json:"changes,omitempty"`
	// Segment stands in the entry that begins a segment. The changes there are
	// those between the digest's moment and the segment's beginning, once more.
	Segment *Segment `json:"segment,omitempty"`
}

// Segment is what a segment of the log begins with.
type Segment struct {
	Number  int          `json:"number"`  // 1, 2, ...
	Records store.Digest `json:"records"` // over all records at one moment, see Records
}

// Policy is a volume's policy: the digest of Content's bytes, and these.
type Policy struct {
	Digest  string          `json:"digest"`
	Content json.RawMessage `json:"content"` // manifest.Policy
}

// Head names the last entry of a log: their number and its hash.
type Head struct {
	Seq   uint64 `json:"seq"`
	Batch uint64 `json:"batch"`
	Hash  string `json:"hash"` // hex SHA-256
}

type signedLine struct {
	Entry json.RawMessage `json:"entry"`
	Sig   string          `json:"sig"`
}

const (
	signContext = "sealbatch-audit v1\x00"
	maxLine     = 256 << 10
	maxChanges  = maxLine / 2 // bytes of one entry's changes
)

// Genesis is the head of a log that has no entry yet.
func Genesis(pub ed25519.PublicKey) Head {
	h := sha256.Sum256(append([]byte(signContext), pub...))
	return Head{Hash: hex.EncodeToString(h[:])}
}

func hashHex(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// split has the changes that are too many for one entry go on in further ones.
func split(events []*Event) []*Event {
	var out []*Event
	for _, e := range events {
		out = append(out, e)
		size, from := 0, 0
		for i, c := range e.Changes {
			// Each byte of a key may become six, as a JSON string.
			if size += 6*(len(c.Bucket)+len(c.Key)) + 4*len(c.Was); size > maxChanges && i > from {
				rest := &Event{Event: e.Event, Outcome: e.Outcome, Account: e.Account, Changes: e.Changes[i:]}
				e.Changes = e.Changes[:i]
				out = append(out, split([]*Event{rest})...)
				break
			}
		}
	}
	return out
}

// render fills in the chain's fields and returns the lines, the last one without
// its newline, and the head after them.
func render(head Head, key ed25519.PrivateKey, now time.Time, events []*Event) ([]byte, Head, error) {
	var lines [][]byte
	batch := head.Batch + 1
	events = split(events)
	for i, e := range events {
		e.Seq, e.Batch, e.Prev, e.Time, e.More = head.Seq+1, batch, head.Hash, now.UTC(), i < len(events)-1
		entry, err := json.Marshal(e)
		if err != nil {
			return nil, head, fmt.Errorf("audit entry: %w", err)
		}
		sig := ed25519.Sign(key, append([]byte(signContext), entry...))
		line, err := json.Marshal(signedLine{entry, base64.RawURLEncoding.EncodeToString(sig)})
		if err != nil {
			return nil, head, fmt.Errorf("audit entry: %w", err)
		}
		if len(line) >= maxLine {
			return nil, head, fmt.Errorf("audit entry of %d bytes", len(line))
		}
		lines = append(lines, line)
		head = Head{Seq: e.Seq, Batch: batch, Hash: hashHex(entry)}
	}
	return bytes.Join(lines, []byte("\n")), head, nil
}
