package audit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyapi"
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

// Log appends to the log. It is not safe for concurrent use.
type Log struct {
	f       File
	size    int64 // of what is kept
	pending int64 // bytes that Append wrote after it
	head    Head
	key     ed25519.PrivateKey
	dirty   bool // a failed write is still to be undone
}

// Open opens or makes the log at path and compares it with the head that the
// store keeps; the zero Head stands for none. The log may be ahead by one batch,
// when the service died between its two writes; then recovered says how many
// entries those are. Any other difference is ErrBroken or ErrRolledBack.
func Open(path string, key ed25519.PrivateKey, stored Head) (log *Log, recovered int, err error) {
	f, err := trusted.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600, trusted.Public)
	if err != nil {
		return nil, 0, fmt.Errorf("audit log: %w", err)
	}
	if log, recovered, err = Resume(f, key, stored); err == nil {
		err = fsx.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("audit log %s: %w", path, err), f.Close())
	}
	return log, recovered, nil
}

// Resume is Open for a file that is open and at its beginning. It stays the
// caller's if there is an error.
func Resume(f File, key ed25519.PrivateKey, stored Head) (log *Log, recovered int, err error) {
	a, recovered, err := check(f, key.Public().(ed25519.PublicKey), stored)
	if err != nil {
		return nil, 0, err
	}
	if a.torn { // beyond the store's head, so no answer left for it
		if err := f.Truncate(a.good); err != nil {
			return nil, 0, fmt.Errorf("remove a torn line: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, 0, err
	}
	return &Log{f: f, size: a.good, head: a.head, key: key}, recovered, nil
}

func check(r io.Reader, pub ed25519.PublicKey, stored Head) (*reader, int, error) {
	a := newReader(r, pub)
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
				return nil, 0, fmt.Errorf("%w: entry %d is not the one that the store remembers", ErrRolledBack, stored.Seq)
			}
			met = true
		}
		if a.head.Batch > stored.Batch+1 {
			return nil, 0, fmt.Errorf("%w: the log goes on after entry %d, the last that the store knows: the store was put back to an older state",
				ErrRolledBack, stored.Seq)
		}
	}
	if !met {
		return nil, 0, fmt.Errorf("%w: the log ends at entry %d, the store knows of %d: the log was cut, replaced or put back to an older state",
			ErrRolledBack, a.head.Seq, stored.Seq)
	}
	return a, recovered, nil
}

// Append writes events durably and returns the head after them. On failure
// the log is as before, or refuses everything until it is.
func (l *Log) Append(now time.Time, events []*Event) (Head, error) {
	if l.dirty {
		if err := l.Undo(); err != nil {
			return Head{}, fmt.Errorf("%w: %w", ErrWrite, err)
		}
	}
	b, head, err := render(l.head, l.key, now, events)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrWrite, err)
	}
	_, err = l.f.WriteAt(b, l.size)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return Head{}, errors.Join(fmt.Errorf("%w: %w", ErrWrite, err), l.Undo())
	}
	l.pending = int64(len(b))
	return head, nil
}

// Keep makes what Append wrote last part of the log.
func (l *Log) Keep(head Head) {
	l.head, l.size, l.pending = head, l.size+l.pending, 0
}

// Undo removes what Append wrote last. If even that fails, a later write could
// chain on an entry that the store does not know, so it comes first then. What
// is before it was synced when it was written.
func (l *Log) Undo() error {
	if err := errors.Join(l.f.Truncate(l.size), l.f.Sync()); err != nil {
		l.dirty = true
		return fmt.Errorf("undo the write: %w", err)
	}
	l.dirty = false
	return nil
}

// SignHead returns the signed head (keyapi.AuditHead, JWS) for an answer.
func (l *Log) SignHead(service string, h Head, now time.Time) (string, error) {
	return manifest.SignJWS(manifest.TypeAuditHead, l.key,
		keyapi.AuditHead{Service: service, Seq: h.Seq, Hash: h.Hash, Time: now.UTC()})
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }
