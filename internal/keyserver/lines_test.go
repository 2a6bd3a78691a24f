package keyserver

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
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
	log := b.read(t)
	lines := bytes.Count(log, []byte(`"event":"idle"`))
	if lines < idleLines || lines > idleLines+60 {
		t.Errorf("%d lines", lines)
	}
	omitted := saidOmitted(t, log) // by lines for which there was room again, on a slow machine
	for _, e := range b.c.lines.sweep() {
		if e.Account != "mallory" {
			t.Errorf("left out: %+v", e)
		}
		omitted += saidOmitted(t, []byte(e.Reason))
	}
	if omitted == 0 || omitted != 2*idleLines-lines {
		t.Errorf("%d lines, and %d said to be left out", lines, omitted)
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

// saidOmitted returns how many lines a text says were left out.
func saidOmitted(t *testing.T, text []byte) (sum int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(\d+) refusals, readings`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestUnitsOfLines has one account make changes whose entries are large, until its budget
// is used up: what the log has of it is bounded in bytes, whatever makes the entries so.
func TestUnitsOfLines(t *testing.T) {
	t.Parallel()
	const budget = 100
	policy := &audit.Policy{Digest: "sha256:", Content: []byte(`"` + strings.Repeat("x", manifest.MaxPolicy-2) + `"`)}
	names := slices.Repeat([]string{strings.Repeat("f", 32)}, 65)
	for name, tc := range map[string]struct {
		event   audit.Event
		records int
		most    int // changes until it is refused
	}{
		"as of a release":           {audit.Event{Volumes: names[:1], Policies: names[:1]}, 8, budget},
		"a policy":                  {audit.Event{Policy: policy}, 4, budget / 9},
		"a policy in one's place":   {audit.Event{Policy: policy, PolicyBefore: policy}, 4, budget / 17},
		"a job of many volumes":     {audit.Event{Volumes: names, Policies: names}, 3, budget / 3},
		"many records of the store": {audit.Event{}, 200, budget / 16},
	} {
		b := newBench(t)
		b.c.lines.budget("mallory").changes = rate.NewLimiter(0, budget)
		made, before := 0, len(b.read(t))
		for ; made <= budget; made++ {
			e := tc.event
			e.Event, e.Outcome = "change", audit.OutcomeDone
			r := b.c.decided(&operation{event: &e, who: "mallory", op: func(w store.Writer) error {
				var errs []error
				for i := range tc.records {
					errs = append(errs, w.Put("releases", fmt.Sprintf("%064d", i), []byte(fmt.Sprint(made))))
				}
				return errors.Join(errs...)
			}})
			if refused, ok := errors.AsType[*service.Refusal](r.err); ok && refused.Code == keyapi.CodeTooMany {
				break
			}
			if r.err != nil {
				t.Fatal(r.err)
			}
		}
		size := len(b.read(t)) - before
		if made > tc.most || made < tc.most*2/3 || size > budget*(unitBytes+1000) {
			t.Errorf("%s: %d changes of %d bytes each, want %d", name, made, size/max(1, made), tc.most)
		}
		b.stop(t)
	}
}
