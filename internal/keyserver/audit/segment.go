package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// archived returns where segment number n of the log at path lies once it is
// closed: audit-000007.log beside audit.log.
func archived(path string, n int) string {
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%06d%s", strings.TrimSuffix(path, ext), n, ext)
}

// Due reports whether the segment that is written to has most bytes or is as old
// as age.
func (l *Log) Due(most int64, age time.Duration, now time.Time) bool {
	return l.size >= most || now.Sub(l.began) >= age
}

// Size returns the bytes of the segment that is written to.
func (l *Log) Size() int64 { return l.size }

// Rotate closes the segment and begins the next one, or the first. records is the
// digest over the store's records that the last check has found. A segment that has
// nothing but its beginning, and on failure the segment that there is, stays.
//
// A crash between any two steps leaves a log that Open takes: the old segment
// under one name or two, or the new one, which the store need not know of, since
// it changes no record.
func (l *Log) Rotate(now time.Time, records store.Digest) error {
	if l.f != nil && l.head == l.start {
		return nil // the store need not know of one beginning, but of two it would have to
	}
	e := &Event{Event: "segment", Outcome: OutcomeDone, Segment: &Segment{Number: l.number + 1, Records: records}}
	if l.records != nil {
		e.Changes = l.records.since.changes()
	}
	since := newRecords(records)
	since.note(e.Changes)
	b, head, err := render(l.head, l.key, now, []*Event{e})
	if err != nil {
		return err
	}
	next := l.path + ".next"
	f, err := l.open(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("begin a segment of the audit log: %w", err)
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = l.supplant(next)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin a segment of the audit log: %w", err), f.Close(), os.Remove(next))
	}
	old := l.f
	l.f, l.size, l.head, l.start, l.number, l.began, l.records = f, int64(len(b)), head, head, l.number+1, now, since
	l.unnamed = true
	if old != nil {
		_ = old.Close() // it was synced
	}
	return l.syncDir()
}

// supplant puts the file next in the place of the current segment, which gets the
// name that it has in the archive.
func (l *Log) supplant(next string) error {
	if l.f != nil {
		if err := l.f.Sync(); err != nil {
			return err
		}
		to := archived(l.path, l.number)
		err := os.Link(l.path, to)
		if errors.Is(err, fs.ErrExist) && sameFile(l.path, to) { // an earlier try
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return os.Rename(next, l.path)
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (l *Log) syncDir() error {
	if err := fsx.SyncDir(filepath.Dir(l.path)); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	l.unnamed = false
	return nil
}
