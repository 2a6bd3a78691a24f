package noderun

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: sealing at a constant speed ends early if it would not end in time.
func TestPace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		left    time.Duration // at the beginning; -1 unknown
		speed   int64         // bytes per second of 100
		hurry   time.Duration // when left drops to 9 s; 0 never
		stopped time.Duration // after which time; -1 never
	}{
		"in time":           {20 * time.Second, 10, 0, -1},
		"nobody knows":      {-1, 1, 0, -1},
		"too slow":          {20 * time.Second, 4, 0, 2 * time.Second},
		"no time at all":    {2 * time.Second, 100, 0, 100 * time.Millisecond},
		"stands still":      {time.Hour, 0, 0, 36*time.Second - 0},
		"cancelled, slow":   {time.Hour, 1, 10 * time.Second, 10 * time.Second},
		"cancelled, enough": {time.Hour, 20, 3 * time.Second, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := &pace{begun: begin, total: 100, reserve: 3 * time.Second, left: func() time.Duration {
					switch spent := time.Since(begin); {
					case c.left < 0:
						return -1
					case c.hurry > 0 && spent >= c.hurry:
						return c.hurry + 9*time.Second - spent
					default:
						return c.left - spent
					}
				}}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				go p.watch(ctx, cancel)
				for p.done.Load() < 100 && ctx.Err() == nil && time.Since(begin) < time.Hour {
					time.Sleep(10 * time.Millisecond)
					p.done.Store(int64(time.Since(begin).Seconds() * float64(c.speed)))
				}
				spent := time.Since(begin)
				if c.stopped < 0 && ctx.Err() != nil {
					t.Fatalf("stopped after %v: %v", spent, context.Cause(ctx))
				}
				inTime := spent >= c.stopped && spent <= c.stopped+200*time.Millisecond
				if c.stopped >= 0 && (!errors.Is(context.Cause(ctx), errNoTime) || !inTime) {
					t.Errorf("ended after %v with %v, want %v", spent, context.Cause(ctx), c.stopped)
				}
			})
		})
	}
}

func TestEstimates(t *testing.T) {
	t.Parallel()
	u := usage{bytes: 15e9, files: 1e6}
	ordered := u.walkTime() < u.indexTime() && u.indexTime() < u.sealTime()
	if !ordered || u.walkTime() < time.Minute || u.sealedBytes() < u.bytes+1e6*1024 {
		t.Errorf("%v, %v, %v, %d", u.walkTime(), u.indexTime(), u.sealTime(), u.sealedBytes())
	}
}
