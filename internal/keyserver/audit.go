package keyserver

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// Errors of the audit log.
var (
	// ErrAuditBroken says that the log was edited, reordered or cut inside.
	ErrAuditBroken = errors.New("audit log does not hold")
	// ErrAuditRolledBack says that the log or the store is older than the other.
	ErrAuditRolledBack = errors.New("audit log and store do not agree")
	// ErrAuditHead says that a log does not contain a remembered head.
	ErrAuditHead = errors.New("audit log does not contain the remembered head")
	// ErrAuditWrite says that the log cannot be written; nothing is released.
	ErrAuditWrite = errors.New("audit log cannot be written")
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
	Seq   uint64    `json:"seq"`   // 1, 2, ...
	Batch uint64    `json:"batch"` // entries of one transaction share it
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
}

// Head names the last entry of a log: their number and its hash.
type Head struct {
	Seq   uint64 `json:"seq"`
	Batch uint64 `json:"batch"`
	Hash  string `json:"hash"` // hex SHA-256
}

type auditLine struct {
	Entry json.RawMessage `json:"entry"`
	Sig   string          `json:"sig"`
}

const (
	auditContext = "sealbatch-audit v1\x00"
	maxAuditLine = 256 << 10
)

func auditGenesis(pub ed25519.PublicKey) Head {
	h := sha256.Sum256(append([]byte(auditContext), pub...))
	return Head{Hash: hex.EncodeToString(h[:])}
}

func hashHex(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// renderEvents fills in the chain's fields and returns the lines and the head
// after them.
func renderEvents(head Head, key ed25519.PrivateKey, now time.Time, events []*Event) ([]byte, Head, error) {
	var out bytes.Buffer
	batch := head.Batch + 1
	for _, e := range events {
		e.Seq, e.Batch, e.Prev, e.Time = head.Seq+1, batch, head.Hash, now.UTC()
		entry, err := json.Marshal(e)
		if err != nil {
			return nil, head, fmt.Errorf("audit entry: %w", err)
		}
		sig := ed25519.Sign(key, append([]byte(auditContext), entry...))
		line, err := json.Marshal(auditLine{entry, base64.RawURLEncoding.EncodeToString(sig)})
		if err != nil {
			return nil, head, fmt.Errorf("audit entry: %w", err)
		}
		if len(line) > maxAuditLine {
			return nil, head, fmt.Errorf("audit entry of %d bytes", len(line))
		}
		out.Write(append(line, '\n'))
		head = Head{Seq: e.Seq, Batch: batch, Hash: hashHex(entry)}
	}
	return out.Bytes(), head, nil
}

// auditReader checks a log line by line.
type auditReader struct {
	r     *bufio.Reader
	pub   ed25519.PublicKey
	head  Head
	good  int64 // bytes up to the end of the last whole entry
	torn  bool  // the last line has no end
	event Event
}

func newAuditReader(r io.Reader, pub ed25519.PublicKey) *auditReader {
	return &auditReader{r: bufio.NewReaderSize(r, maxAuditLine+1), pub: pub, head: auditGenesis(pub)}
}

// next checks one entry; signatures only if signed, since the chain alone
// tells an untouched log from its head. It returns io.EOF at the end.
func (a *auditReader) next(signed bool) error {
	line, err := a.r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return io.EOF
	case errors.Is(err, io.EOF):
		a.torn = true
		return io.EOF
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("%w: line %d is too long", ErrAuditBroken, a.head.Seq+1)
	case err != nil:
		return fmt.Errorf("read audit log: %w", err)
	}
	var l auditLine
	var e Event
	if err := keyapi.Decode(line, &l); err != nil {
		return fmt.Errorf("%w: line %d: %w", ErrAuditBroken, a.head.Seq+1, err)
	}
	if err := keyapi.Decode(l.Entry, &e); err != nil {
		return fmt.Errorf("%w: line %d: %w", ErrAuditBroken, a.head.Seq+1, err)
	}
	// One way of writing a line only: nothing unsigned can be added to it.
	if canon, err := json.Marshal(l); err != nil || !bytes.Equal(append(canon, '\n'), line) {
		return fmt.Errorf("%w: line %d is not as it was written", ErrAuditBroken, a.head.Seq+1)
	}
	if e.Seq != a.head.Seq+1 || e.Prev != a.head.Hash || e.Batch < a.head.Batch || e.Batch > a.head.Batch+1 {
		return fmt.Errorf("%w: line %d does not follow the one before it: edited, moved or removed lines", ErrAuditBroken, a.head.Seq+1)
	}
	if signed {
		sig, err := base64.RawURLEncoding.Strict().DecodeString(l.Sig)
		if err != nil || !ed25519.Verify(a.pub, append([]byte(auditContext), l.Entry...), sig) {
			return fmt.Errorf("%w: line %d is not signed by this service", ErrAuditBroken, a.head.Seq+1)
		}
	}
	a.head = Head{Seq: e.Seq, Batch: e.Batch, Hash: hashHex(l.Entry)}
	a.good += int64(len(line))
	a.event = e
	return nil
}

// VerifyAudit checks a whole log under the service's statement key and returns
// the number of entries and the head. Edits, moves and cuts inside are
// ErrAuditBroken. A cut at the end shows only against heads kept elsewhere:
// each of remembered must be in the log, else ErrAuditHead.
func VerifyAudit(r io.Reader, pub ed25519.PublicKey, remembered ...keyapi.AuditHead) (int, Head, error) {
	want := map[uint64][]string{}
	for _, h := range remembered {
		want[h.Seq] = append(want[h.Seq], h.Hash)
	}
	a := newAuditReader(r, pub)
	for {
		for _, hash := range want[a.head.Seq] {
			if hash != a.head.Hash {
				return int(a.head.Seq), a.head, fmt.Errorf("%w: entry %d is another one now", ErrAuditHead, a.head.Seq)
			}
		}
		err := a.next(true)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return int(a.head.Seq), a.head, err
		}
	}
	if a.torn {
		return int(a.head.Seq), a.head, fmt.Errorf("%w: line %d is cut off", ErrAuditBroken, a.head.Seq+1)
	}
	for seq := range want {
		if seq > a.head.Seq {
			return int(a.head.Seq), a.head, fmt.Errorf("%w: it ends at entry %d, the head remembered is %d: cut off at the end or rolled back",
				ErrAuditHead, a.head.Seq, seq)
		}
	}
	return int(a.head.Seq), a.head, nil
}

// ParseAuditHead checks a signed head, as answers carry it.
func ParseAuditHead(pub ed25519.PublicKey, jws string) (keyapi.AuditHead, error) {
	var h keyapi.AuditHead
	err := manifest.VerifyJWS(manifest.TypeAuditHead, pub, jws, &h)
	return h, err
}

// auditFile is what the log needs of *os.File.
type auditFile interface {
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// auditLog appends to the log. It is used by the committer alone.
type auditLog struct {
	f       auditFile
	size    int64 // of what is kept
	pending int64 // bytes that append wrote after it
	head    Head
	key     ed25519.PrivateKey
	dirty   bool // a failed write is still to be undone
}

// openAudit opens or makes the log and compares it with the head that the
// store keeps. The log may be ahead by one batch, when the service died
// between its two writes; then recovered says how many entries those are.
func openAudit(path string, key ed25519.PrivateKey, stored Head) (log *auditLog, recovered int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	a, recovered, err := checkAudit(f, key.Public().(ed25519.PublicKey), stored)
	if err != nil {
		return nil, 0, fmt.Errorf("audit log %s: %w", path, err)
	}
	if a.torn { // beyond the store's head, so no answer left for it
		if err := f.Truncate(a.good); err != nil {
			return nil, 0, fmt.Errorf("audit log: remove a torn line: %w", err)
		}
	}
	if err := errors.Join(f.Sync(), fsx.SyncDir(filepath.Dir(path))); err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	return &auditLog{f: f, size: a.good, head: a.head, key: key}, recovered, nil
}

func checkAudit(r io.Reader, pub ed25519.PublicKey, stored Head) (*auditReader, int, error) {
	a := newAuditReader(r, pub)
	if stored.Seq == 0 {
		stored = a.head
	}
	met, recovered := a.head == stored, 0
	for {
		err := a.next(met)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		if met {
			recovered++
		}
		if a.head.Seq == stored.Seq {
			if a.head != stored {
				return nil, 0, fmt.Errorf("%w: entry %d is not the one that the store remembers", ErrAuditRolledBack, stored.Seq)
			}
			met = true
		}
		if a.head.Batch > stored.Batch+1 {
			return nil, 0, fmt.Errorf("%w: the log goes on after entry %d, the last that the store knows: the store was put back to an older state",
				ErrAuditRolledBack, stored.Seq)
		}
	}
	if !met {
		return nil, 0, fmt.Errorf("%w: the log ends at entry %d, the store knows of %d: the log was cut, replaced or put back to an older state",
			ErrAuditRolledBack, a.head.Seq, stored.Seq)
	}
	return a, recovered, nil
}

// append writes events durably and returns the head after them. On failure
// the log is as before, or refuses everything until it is.
func (l *auditLog) append(now time.Time, events []*Event) (Head, error) {
	if l.dirty {
		if err := l.undo(); err != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrAuditWrite, err)
		}
	}
	b, head, err := renderEvents(l.head, l.key, now, events)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrAuditWrite, err)
	}
	_, err = l.f.WriteAt(b, l.size)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return Head{}, errors.Join(fmt.Errorf("%w: %w", ErrAuditWrite, err), l.undo())
	}
	l.pending = int64(len(b))
	return head, nil
}

// keep makes what append wrote last part of the log.
func (l *auditLog) keep(head Head) {
	l.head, l.size, l.pending = head, l.size+l.pending, 0
}

// undo removes what append wrote last. If even that fails, a later write could
// chain on an entry that the store does not know, so it comes first then. What
// is before it was synced when it was written.
func (l *auditLog) undo() error {
	if err := errors.Join(l.f.Truncate(l.size), l.f.Sync()); err != nil {
		l.dirty = true
		return fmt.Errorf("undo the write: %w", err)
	}
	l.dirty = false
	return nil
}

// signHead renders the signed head for an answer.
func (l *auditLog) signHead(service string, h Head, now time.Time) (string, error) {
	return manifest.SignJWS(manifest.TypeAuditHead, l.key,
		keyapi.AuditHead{Service: service, Seq: h.Seq, Hash: h.Hash, Time: now.UTC()})
}
