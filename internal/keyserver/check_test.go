package keyserver

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

// TestCheckWhileWriting checks the records and begins segments of the log while
// they change, and starts on what is left.
func TestCheckWhileWriting(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			chance := rand.New(rand.NewPCG(uint64(i), 1))
			for range 100 {
				key := fmt.Sprint(chance.IntN(20))
				_, err := b.c.do(&audit.Event{Event: "test", Outcome: audit.OutcomeDone}, func(w store.Writer) error {
					if chance.IntN(3) == 0 {
						return w.Delete("b", key)
					}
					return w.Put(fmt.Sprint("b", chance.IntN(3)), key, []byte(key))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	segments := 1
	for range 10 {
		if err := b.c.check(t.Context(), segments < 5); err != nil {
			t.Fatal(err)
		}
		segments = min(segments+1, 5)
	}
	wg.Wait()
	for range 2 {
		b.stop(t)
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
		b.write(t, 1)
	}
	b.stop(t)
	if names, err := audit.Segments(b.log()); err != nil || len(names) < 2 {
		t.Errorf("segments: %q, %v", names, err)
	}
}

// TestSegmentFull has the log go on in a new segment when one is full.
func TestSegmentFull(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.c.segment = 4 << 10
	for len(b.c.full) == 0 {
		b.write(t, 1)
	}
	<-b.c.full
	if err := b.c.check(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := b.c.log.Size(); got > 1<<10 {
		t.Errorf("the new segment has %d bytes", got)
	}
	b.stop(t)
}
