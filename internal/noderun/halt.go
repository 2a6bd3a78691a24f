package noderun

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Why a run stops early.
var (
	errTimeLimit = errors.New("stopped before the time limit")
	errCancelled = errors.New("cancelled")
)

// haltTimes are how long things may take once a signal came.
type haltTimes struct {
	grace     time.Duration // for the application after SIGUSR1
	termGrace time.Duration // for the application after SIGTERM
	kill      time.Duration // from SIGTERM to the end of all sealing; SIGKILL follows it
}

// Slurm's KillWait is 30 s by default; some sites have 10 s or so.
var defaultTimes = haltTimes{grace: 10 * time.Second, termGrace: 2 * time.Second, kill: 9 * time.Second}

// halt turns signals into one decision that everything else reads:
//
//	SIGUSR1                  Slurm's notice ahead of the time limit: stop the
//	                         application, seal
//	SIGTERM, SIGINT, SIGHUP  cancelled, or the limit is reached: the same in a hurry
//
// Work ends when its context does: work's before sealing, sealing's when SIGKILL
// is near. It never forgets the first reason.
type halt struct {
	work    context.Context // ends at the first signal; its cause is the reason
	sealing context.Context // ends when there is no time left to seal
	graced  chan struct{}   // closed when the application's grace is over
	done    chan struct{}
	killed  atomic.Pointer[time.Time] // when SIGKILL is expected, once known
}

// newHalt starts to listen to signals. Close ends that.
func newHalt(parent context.Context, signals <-chan os.Signal, t haltTimes) *halt {
	h := &halt{graced: make(chan struct{}), done: make(chan struct{})}
	var stop, stopSealing context.CancelCauseFunc
	h.work, stop = context.WithCancelCause(context.WithoutCancel(parent))
	h.sealing, stopSealing = context.WithCancelCause(context.WithoutCancel(parent))
	go func() {
		defer stopSealing(context.Canceled)
		defer stop(context.Canceled)
		h.loop(parent, signals, t, stop, stopSealing)
	}()
	return h
}

func (h *halt) close() { close(h.done) }

// loop is the only place where signals meet: no state is shared.
func (h *halt) loop(parent context.Context, signals <-chan os.Signal, t haltTimes, stop, stopSealing context.CancelCauseFunc) {
	var grace, kill <-chan time.Time
	graced, hurried := h.graced, false
	cancelled := parent.Done()
	hurry := func() {
		if hurried {
			return
		}
		hurried = true
		end := time.Now().Add(t.kill)
		h.killed.Store(&end)
		stop(errCancelled) // no effect after SIGUSR1: the first reason stays
		grace, kill = time.After(t.termGrace), time.After(t.kill)
	}
	for {
		select {
		case sig := <-signals:
			switch sig {
			case syscall.SIGUSR1:
				if h.work.Err() == nil {
					stop(errTimeLimit)
					grace = time.After(t.grace)
				}
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP:
				hurry()
			}
		case <-cancelled:
			cancelled = nil
			hurry()
		case <-grace:
			if graced != nil {
				close(graced)
				graced = nil
			}
		case <-kill:
			stopSealing(errCancelled)
		case <-h.done:
			return
		}
	}
}

// reason is errTimeLimit, errCancelled, or nil while nothing stopped the run.
func (h *halt) reason() error {
	if h.work.Err() == nil {
		return nil
	}
	return context.Cause(h.work)
}

// left is how long sealing may take, negative if nothing limits it.
func (h *halt) left(a allocation) time.Duration {
	if end := h.killed.Load(); end != nil {
		return max(0, time.Until(*end))
	}
	return a.left(time.Now())
}
