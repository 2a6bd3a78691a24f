package boltstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// scrubRetry is how often Scrub looks whether nobody reads.
const scrubRetry = 10 * time.Millisecond

// Scrub overwrites the file's free pages with zeros, and what lies behind the
// last page that was ever used, so that nothing is left of records that were
// deleted or replaced. It is a store.Scrubber. Decisions wait for it: it reads
// the free pages, and writes those that are not zeros yet.
//
// bbolt gives such pages to the next transaction that needs some, which writes
// them before its own meta page is on disk. To write them now is no different.
func (s *Store) Scrub(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Without readers and with the writer's turn, a free page is nobody's: a reader
	// of an older state would still have pages that are free in the newest.
	// Its turn is not waited for with the lock's own queue, in which new readers would wait behind it for the longest
	// that reads.
	for !s.views.TryLock() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(scrubRetry):
		}
	}
	defer s.views.Unlock()
	tx, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("wipe free pages of the store: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was changed in it
	f, err := os.OpenFile(s.db.Path(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("wipe free pages of the store: %w", err)
	}
	defer f.Close()
	if err := wipe(f, tx, s.db.Info().PageSize); err != nil {
		return fmt.Errorf("wipe free pages of the store: %w", err)
	}
	return nil
}

func wipe(f *os.File, tx *bbolt.Tx, size int) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	zeros, page := make([]byte, size), make([]byte, size)
	wrote := false
	for id := 0; int64(id+1)*int64(size) <= st.Size(); id++ {
		info, err := tx.Page(id)
		if err != nil {
			return err
		}
		if info != nil && info.Type != "free" { // nil: behind the last page
			id += info.OverflowCount
			continue
		}
		at := int64(id) * int64(size)
		if _, err := f.ReadAt(page, at); err != nil {
			return err
		}
		if bytes.Equal(page, zeros) {
			continue
		}
		if _, err := f.WriteAt(zeros, at); err != nil {
			return err
		}
		wrote = true
	}
	if !wrote {
		return nil
	}
	return f.Sync()
}
