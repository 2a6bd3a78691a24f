package audit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// File is what the log needs of *os.File.
type File interface {
	io.Reader
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Opener opens or makes a file for reading and writing, as os.OpenFile does.
type Opener func(path string, flag int) (File, error)

func openFile(path string, flag int) (File, error) {
	return trusted.OpenFile(path, flag, 0o600, trusted.Public)
}

// Log appends to the log. It is not safe for concurrent use.
type Log struct {
	path string
	open Opener
	key  ed25519.PrivateKey

	f       File  // the segment that is written to; nil before the first
	size    int64 // of what is kept, without the newline that ends it
	head    Head
	number  int  // of the segment
	start   Head // of the segment's beginning
	began   time.Time
	records *Records

	pending int64 // bytes that Append wrote after size
	changes []store.Change
	dirty   bool // a failed write is still to be undone
	unnamed bool // the directory is still to be synced
}

// Open opens the log at path and compares it with the head that the store keeps,
// which is Genesis at first. A log that is not there yet is New, and begins with
// Rotate. If the service died between its two writes, what the store does not know
// is removed; then dropped says how many entries those are. Any other difference is
// ErrBroken or ErrRolledBack. A nil open is for the real disk.
func Open(path string, open Opener, key ed25519.PrivateKey, stored Head) (log *Log, dropped int, err error) {
	l := &Log{path: path, open: open, key: key, head: stored}
	if l.open == nil {
		l.open = openFile
	}
	l.f, err = l.open(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		if stored != Genesis(l.public()) {
			return nil, 0, fmt.Errorf("audit log %s: %w: it is missing, and the store knows of %d entries", path, ErrRolledBack, stored.Seq)
		}
		l.f = nil
		return l, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	if dropped, err = l.resume(stored); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("audit log %s: %w", path, err), l.f.Close())
	}
	return l, dropped, nil
}

func (l *Log) public() ed25519.PublicKey { return l.key.Public().(ed25519.PublicKey) }

// resume reads the current segment and makes it end with what the store knows.
func (l *Log) resume(stored Head) (dropped int, err error) {
	c, err := check(l.f, l.public(), stored)
	if err != nil {
		return 0, err
	}
	l.head, l.size, l.number, l.start, l.began, l.records = c.head, c.size, c.segment.Number, c.start, c.began, c.records
	return c.dropped, l.Undo()
}

// Start compares the log that was opened with the store, and begins the first
// segment of one that is new. A store that has more by then than what the service
// keeps of itself is ErrRolledBack: it had a log.
func (l *Log) Start(now time.Time, r store.Reader) error {
	if l.f != nil {
		c := l.BeginCheck()
		err := l.Compare(c, r)
		l.EndCheck(c, err == nil)
		return err
	}
	all := newDigester()
	err := r.Digests(func(bucket, key string, kept store.Digest) error {
		p := place{bucket, key}
		switch {
		case bucket != HeadBucket:
			return fmt.Errorf("%w: the log is missing, and the store has %s", ErrRolledBack, p)
		case p != place{HeadBucket, HeadKey}:
			all.add(p, kept)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.Rotate(now, all.sum())
}

// Head returns the last entry that the store has.
func (l *Log) Head() Head { return l.head }

// Append writes events durably and returns the head after them. On failure
// the log is as before, or refuses everything until it is. Changes that do not
// follow those before them are ErrAltered.
func (l *Log) Append(now time.Time, events []*Event) (Head, error) {
	if err := l.mend(); err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	l.changes = nil
	for _, e := range events {
		l.changes = append(l.changes, e.Changes...)
	}
	if err := l.records.follows(l.changes); err != nil {
		return Head{}, err
	}
	b, head, err := render(l.head, l.key, now, events)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	b = append([]byte("\n"), b...) // which is there already
	if _, err = l.f.WriteAt(b, l.size); err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return Head{}, errors.Join(fmt.Errorf("%w: %w", ErrWrite, err), l.Undo())
	}
	l.pending = int64(len(b))
	return head, nil
}

// mend does what is left of something that failed.
func (l *Log) mend() error {
	if l.unnamed {
		if err := l.syncDir(); err != nil {
			return err
		}
	}
	if l.dirty {
		return l.Undo()
	}
	return nil
}

// Keep makes what Append wrote last part of the log: the store has it.
func (l *Log) Keep(head Head) {
	l.head, l.size, l.pending = head, l.size+l.pending, 0
	l.records.note(l.changes)
	l.end()
}

// end writes the newline that says that the store has the last batch. If that
// fails, Append writes it.
func (l *Log) end() { _, _ = l.f.WriteAt([]byte("\n"), l.size) }

// Undo removes what Append wrote last. If even that fails, a later write could
// chain on an entry that the store does not know, so it comes first then. What
// is before it was synced when it was written.
func (l *Log) Undo() error {
	err := l.f.Truncate(l.size)
	l.end()
	if err := errors.Join(err, l.f.Sync()); err != nil {
		l.dirty = true
		return fmt.Errorf("undo the write: %w", err)
	}
	l.dirty = false
	return nil
}

// BeginCheck returns the check of a snapshot that the store has now; Compare may
// run beside Append. EndCheck ends it.
func (l *Log) BeginCheck() *Check {
	c := l.records.begin()
	c.seq = l.head.Seq
	return c
}

// EndCheck ends a check, and says whether Compare found that the records are those
// that the log tells of.
func (l *Log) EndCheck(c *Check, held bool) { l.records.end(c, held) }

// SignHead returns the signed head (keyapi.AuditHead, JWS) for an answer.
func (l *Log) SignHead(service string, h Head, now time.Time) (string, error) {
	return manifest.SignJWS(manifest.TypeAuditHead, l.key,
		keyapi.AuditHead{Service: service, Seq: h.Seq, Hash: h.Hash, Time: now.UTC()})
}

// Close closes the file.
func (l *Log) Close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
