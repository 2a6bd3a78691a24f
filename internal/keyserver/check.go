package keyserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// conditionRecords keeps the service from being ready, and from releasing anything,
// once a record was found that the audit log does not tell of.
const conditionRecords = "records"

const (
	// checkEvery is how often all records are held against the log.
	checkEvery = time.Hour
	// segmentAge is how long one segment of the log is written to at most.
	segmentAge = 30 * 24 * time.Hour
)

// LogCheck returns what holds the current segment of an audit log against what the store has now.
// Neither is changed. It fails for a store without a service's identity.
func LogCheck(st interface {
	View(ctx context.Context, fn func(store.Reader) error) error
}) (follows func(io.Reader) error, err error) {
	var si serviceIdentity
	var head audit.Head
	err = st.View(context.Background(), func(r store.Reader) error {
		return errors.Join(getJSON(r, bucketMeta, keyIdentity, &si), getJSON(r, bucketMeta, keyHead, &head))
	})
	if err == nil && len(si.Seed) != ed25519.SeedSize {
		err = errors.New("damaged record")
	}
	if err != nil {
		return nil, fmt.Errorf("identity of the key service: %w", err)
	}
	pub := ed25519.NewKeyFromSeed(si.Seed).Public().(ed25519.PublicKey)
	clear(si.Seed)
	return func(log io.Reader) error { return audit.Follows(log, pub, head) }, nil
}

// errClosed says that the service has ended.
var errClosed = fmt.Errorf("%w: the service is stopping", audit.ErrWrite)

// between runs fn in the committer, between two batches.
func (c *committer) between(fn func()) error {
	done := make(chan struct{})
	err := c.send(func() { c.control <- func() { fn(); close(done) } })
	if err == nil {
		<-done
	}
	return err
}

// noteAltered stops all releases, and writes that down. Only a start with records
// that hold ends it. It runs in the committer.
func (c *committer) noteAltered(err error) {
	if c.conditions.Has(conditionRecords) {
		return
	}
	c.conditions.Set(conditionRecords, "they are not those that the audit log tells of; nothing is released")
	e := &audit.Event{Event: "records.check", Outcome: audit.OutcomeRefused, Reason: auditReason(err)}
	c.commit([]*operation{{event: e, done: make(chan result, 1)}})
}

// check holds all records against the log, on a snapshot, while decisions go on,
// and begins a new segment of the log if one is due, or in any case. What differs
// is audit.ErrAltered.
func (c *committer) check(ctx context.Context, anew bool) error {
	c.checking.Lock()
	defer c.checking.Unlock()
	var check *audit.Check
	compared := make(chan error, 1)
	err := c.between(func() {
		check = c.log.BeginCheck()
		began := make(chan struct{})
		go func() {
			err := c.store.View(ctx, func(r store.Reader) error {
				close(began)
				return c.log.Compare(check, r)
			})
			compared <- err
		}()
		select {
		case <-began:
		case err := <-compared: // there was no snapshot
			compared <- err
		}
	})
	if err != nil {
		return err
	}
	err = <-compared
	var rotated error
	closed := c.between(func() {
		c.log.EndCheck(check, err == nil)
		if errors.Is(err, audit.ErrAltered) {
			c.noteAltered(err)
		}
		if err == nil && (anew || c.log.Due(c.segment, segmentAge, c.now())) {
			rotated = c.log.Rotate(c.now(), check.Now)
		}
	})
	return errors.Join(err, rotated, closed)
}

// unaltered refuses once a record was found to be altered.
func (s *Server) unaltered() error {
	if !s.conditions.Has(conditionRecords) {
		return nil
	}
	return service.Refuse(keyapi.CodeUnavailable, "the key service's records were altered; nothing is released").WithHint(logHint)
}

// Rotate checks the records and begins a new segment of the audit log.
func (s *Server) Rotate(ctx context.Context) error { return s.commits.check(ctx, true) }

// checkUntil checks the records at intervals, and when a segment of the log is
// full, until ctx ends.
func (s *Server) checkUntil(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.noteOmitted()
		case <-s.commits.full:
		}
		err := s.commits.check(ctx, false)
		if ctx.Err() != nil {
			return
		}
		s.conditions.Set(conditionSegment, whyNoSegment(err))
		if err == nil {
			continue
		}
		s.log.Error("the records were not found to be as the audit log tells, or it has no new segment", "error", err)
		select { // a segment that cannot be closed stays full: the next line is not to check everything again
		case <-ctx.Done():
			return
		case <-time.After(segmentRetry):
		}
	}
}

// conditionSegment keeps the service from being ready while its log has no new segment though one is due.
const conditionSegment = "audit log"

// segmentRetry is how long the service waits after a check that failed.
const segmentRetry = time.Minute

func whyNoSegment(err error) string {
	if err == nil || errors.Is(err, audit.ErrAltered) {
		return ""
	}
	return "a new segment cannot be begun; is there a file of the closed one's name?"
}

// noteOmitted writes down how much was not.
func (s *Server) noteOmitted() {
	for _, e := range s.commits.lines.sweep() {
		if _, err := s.commits.do(e, nil); err != nil {
			s.log.Error("how much was left out of the audit log was not written down", "error", err)
		}
	}
}
