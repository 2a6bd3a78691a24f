package fault

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

type coded struct{ error }

func (coded) FaultClass() Class { return Key }
func (coded) NextStep() string  { return "ask its owner" }

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
		{coded{base}, Key, "ask its owner"},
		{New(Job, coded{base}, ""), Job, "ask its owner"},
		{New(Job, nil, "x"), None, ""},
	} {
		if ClassOf(c.err) != c.class || Hint(c.err) != c.hint {
			t.Errorf("%v: class %s, hint %q; want %s, %q", c.err, ClassOf(c.err), Hint(c.err), c.class, c.hint)
		}
	}
	if !errors.Is(New(Slurm, base, ""), base) {
		t.Error("New hides the error")
	}
}
