package keyserver

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// TestLinesAreBounded has one account read, be refused and change without end: the
// log has so many lines of it, and says how many it has not. Others are not touched.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	no := service.Refuse(keyapi.CodePolicy, "no")
	put := func(w store.Writer) error { return w.Put("b", "k", nil) }
	do := func(who, event string, op func(store.Writer) error) result {
		return b.c.decided(&operation{event: &audit.Event{Event: event, Outcome: audit.OutcomeDone}, op: op, who: who})
	}
	for i := range 2 * idleLines {
		op := func(store.Writer) error { return nil }
		if i%2 == 0 {
			op = func(w store.Writer) error { return errors.Join(put(w), no) }
		}
		r := do("mallory", "idle", op)
		if (i%2 == 0) != errors.Is(r.err, no) || r.head == "" {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	if r := do("alice", "alices", nil); r.err != nil || r.omitted {
		t.Errorf("another account: %+v", r)
	}
	if r := do("mallory", "change", put); r.err != nil || r.omitted {
		t.Errorf("a change: %+v", r)
	}
	lines := bytes.Count(b.read(t), []byte(`"event":"idle"`))
	if lines < idleLines || lines > idleLines+60 {
		t.Errorf("%d lines", lines)
	}
	said := b.c.lines.sweep()
	if len(said) != 1 || said[0].Account != "mallory" || said[0].Reason != tooMany(2*idleLines-lines) {
		t.Errorf("left out: %+v, with %d lines", said, lines)
	}
	b.c.lines.of["mallory"].changes = rate.NewLimiter(0, 2)
	for i := range 3 {
		r := do("mallory", fmt.Sprint(i), put)
		var refused *service.Refusal
		if (i == 2) != (errors.As(r.err, &refused) && refused.Code == keyapi.CodeTooMany) {
			t.Errorf("change %d: %v", i, r.err)
		}
	}
	b.stop(t)
	if _, _, err := b.entries(t); err != nil {
		t.Error(err)
	}
	if err := b.start(); err != nil {
		t.Error(err)
	}
	b.stop(t)
}
