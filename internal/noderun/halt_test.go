package noderun

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var testTimes = haltTimes{grace: 10 * time.Second, termGrace: 2 * time.Second, kill: 9 * time.Second}

// closesAfter is how long a channel stays open; -1 if for an hour.
func closesAfter(c <-chan struct{}) time.Duration {
	begin := time.Now()
	select {
	case <-c:
		return time.Since(begin)
	case <-time.After(time.Hour):
		return -1
	}
}

// signalAt is a signal after a while.
type signalAt struct {
	after time.Duration
	sig   os.Signal
}

// haltCase is signals and what they lead to.
type haltCase struct {
	signals               []signalAt
	reason                error
	work, graced, sealing time.Duration // when they end; -1 never
}

func haltCases() map[string]haltCase {
	return map[string]haltCase{
		"nothing":       {nil, nil, -1, -1, -1},
		"other signals": {[]signalAt{{0, syscall.SIGPIPE}}, nil, -1, -1, -1},
		"time limit":    {[]signalAt{{time.Second, syscall.SIGUSR1}}, errTimeLimit, time.Second, 11 * time.Second, -1},
		"told twice": {
			[]signalAt{{time.Second, syscall.SIGUSR1}, {3 * time.Second, syscall.SIGUSR1}},
			errTimeLimit, time.Second, 11 * time.Second, -1,
		},
		"cancelled": {
			[]signalAt{{time.Second, syscall.SIGTERM}},
			errCancelled, time.Second, 3 * time.Second, 10 * time.Second,
		},
		"cancelled twice": {
			[]signalAt{{time.Second, syscall.SIGTERM}, {2 * time.Second, syscall.SIGINT}},
			errCancelled, time.Second, 3 * time.Second, 10 * time.Second,
		},
		"limit, then kill": {
			[]signalAt{{0, syscall.SIGUSR1}, {4 * time.Second, syscall.SIGTERM}},
			errTimeLimit, 0, 6 * time.Second, 13 * time.Second,
		},
		"kill after grace": {
			[]signalAt{{0, syscall.SIGUSR1}, {20 * time.Second, syscall.SIGTERM}},
			errTimeLimit, 0, 10 * time.Second, 29 * time.Second,
		},
		"terminal is gone": {[]signalAt{{0, syscall.SIGHUP}}, errCancelled, 0, 2 * time.Second, 9 * time.Second},
	}
}

func TestHalt(t *testing.T) {
	t.Parallel()
	for name, c := range haltCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				signals := make(chan os.Signal, 4)
				h := newHalt(t.Context(), signals, testTimes)
				defer h.close()
				for _, s := range c.signals {
					time.AfterFunc(s.after, func() { signals <- s.sig })
				}
				for what, e := range map[string]struct {
					done <-chan struct{}
					want time.Duration
				}{"work": {h.work.Done(), c.work}, "grace": {h.graced, c.graced}, "sealing": {h.sealing.Done(), c.sealing}} {
					go func() {
						if got := closesAfter(e.done); got != e.want {
							t.Errorf("%s ends after %v, want %v", what, got, e.want)
						}
					}()
				}
				time.Sleep(2 * time.Hour) // of the bubble's own time: none passes
				if !errors.Is(h.reason(), c.reason) || (c.reason == nil) != (h.reason() == nil) {
					t.Errorf("reason %v, want %v", h.reason(), c.reason)
				}
			})
		})
	}
}

func TestHaltLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		ctx, cancel := context.WithCancel(t.Context())
		h := newHalt(ctx, signals, testTimes)
		defer h.close()
		a := allocation{ends: time.Now().Add(time.Minute)}
		if left := h.left(a); left != time.Minute {
			t.Errorf("%v left before any signal", left)
		}
		if left := h.left(allocation{}); left >= 0 {
			t.Errorf("%v left of an unknown time", left)
		}
		cancel() // the caller's context counts as SIGTERM
		synctest.Wait()
		if left := h.left(a); left != testTimes.kill || !errors.Is(h.reason(), errCancelled) {
			t.Errorf("%v left, %v", left, h.reason())
		}
		time.Sleep(time.Hour)
		if left := h.left(a); left != 0 {
			t.Errorf("%v left after the end", left)
		}
	})
}
