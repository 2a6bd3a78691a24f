package fault

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

var errRefused = Sentinel(Key, "refused")

func TestErrors(t *testing.T) {
	t.Parallel()
	base := errors.New("boom")
	for _, c := range []struct {
		err   error
		class Class
		hint  string
	}{
		{nil, None, ""},
		{base, Other, ""},
		{New(Slurm, base, "wait"), Slurm, "wait"},
		{fmt.Errorf("x: %w", New(Slurm, base, "wait")), Slurm, "wait"},
		{fmt.Errorf("x: %w", context.Canceled), Interrupted, ""},
		{fmt.Errorf("x: %w", errRefused), Key, ""},
		{New(Key, base, "ask its owner"), Key, "ask its owner"},
		{New(Job, New(Key, base, "ask its owner"), ""), Job, "ask its owner"},
		{New(Other, fmt.Errorf("x: %w", errRefused), "read on"), Key, "read on"},
		{fmt.Errorf("%w: %w", base, fmt.Errorf("%w (%w)", context.Canceled, errRefused)), Key, ""},
		{errors.Join(New(Slurm, base, ""), New(Job, base, "look")), Slurm, "look"},
		{WithHint(fmt.Errorf("x: %w", errRefused), "ask"), Key, "ask"},
		{WithHint(nil, "ask"), None, ""},
		{New(Job, nil, "x"), None, ""},
	} {
		if ClassOf(c.err) != c.class || Hint(c.err) != c.hint {
			t.Errorf("%v: class %s, hint %q; want %s, %q", c.err, ClassOf(c.err), Hint(c.err), c.class, c.hint)
		}
	}
	if !errors.Is(New(Slurm, base, ""), base) {
		t.Error("New hides the error")
	}
	if !errors.Is(fmt.Errorf("x: %w", errRefused), errRefused) || errors.Is(errRefused, Sentinel(Key, "refused")) {
		t.Error("a sentinel is another one, or not itself")
	}
}
