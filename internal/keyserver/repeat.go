package keyserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketRepeats holds a repeatRecord for each release, by requestName.
const bucketRepeats = "repeats"

// repeatRecord lets a node whose answer was lost ask for it again, byte for
// byte: the keys are sealed anew to the same E, so that only the process that
// made the claim can read them, and nothing is counted twice. What evidence
// showed is kept, since it has aged by then; who vouched for it and the owner's
// policy are asked again.
type repeatRecord struct {
	Until  time.Time     `json:"until"`
	Claims attest.Claims `json:"claims"`
}

// requestName names a release by all its bytes: claim, evidence and proof.
func requestName(body []byte) string {
	h := sha256.Sum256(append([]byte("sealbatch-repeat v1\x00"), body...))
	return hex.EncodeToString(h[:])
}

// released returns what was shown by the same request if its keys were
// released a short while ago.
func (s *Server) released(ctx context.Context, name string) (c attest.Claims, ok bool, err error) {
	err = s.store.View(ctx, func(r store.Reader) error {
		var rec repeatRecord
		err := getJSON(r, bucketRepeats, name, &rec)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		c, ok = rec.Claims, s.now().Before(rec.Until)
		return err
	})
	return c, ok, err
}

// rememberRelease makes a repeat of the request possible.
func (s *Server) rememberRelease(w store.Writer, name string, c attest.Claims) error {
	return putJSON(w, bucketRepeats, name, repeatRecord{Until: s.now().Add(keyapi.RepeatTTL).UTC(), Claims: c})
}

// inFlight is a set of requests that are at work, by what only one may be at work
// on: a further one waits for the first.
type inFlight struct {
	mu sync.Mutex
	at map[string]chan struct{} // by name; closed at its end
}

func newInFlight() *inFlight { return &inFlight{at: map[string]chan struct{}{}} }

// enter waits until no request of that name is at work, and begins it. The
// caller calls leave when it is done.
func (f *inFlight) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		f.mu.Lock()
		done := f.at[name]
		if done == nil {
			done = make(chan struct{})
			f.at[name] = done
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				delete(f.at, name)
				f.mu.Unlock()
				close(done)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, service.Refuse(keyapi.CodeTooMany, "this very request, or another about the same volume, is at work")
		}
	}
}
