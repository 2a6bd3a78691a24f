package noderun

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sealbatch/sealbatch/volume"
)

func TestExitMeaningsCoverEveryCode(t *testing.T) {
	t.Parallel()
	reasons := map[string]bool{}
	for i, m := range ExitMeanings() {
		if m.Code != ExitDirectory+i || reasons[m.Reason] || m.Meaning == "" || reasonOf(m.Code) != m.Reason {
			t.Errorf("%+v", m)
		}
		reasons[m.Reason] = true
	}
	if len(reasons) != ExitCancelled-ExitDirectory+1 {
		t.Errorf("%d of the codes have a meaning", len(reasons))
	}
}

func TestExitOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want int
	}{
		{failed(ExitInput, volume.ErrBlock), ExitInput},
		{fmt.Errorf("x: %w", failed(ExitInput, failed(ExitSeal, errors.New("y")))), ExitSeal},
		{fmt.Errorf("x: %w", volume.ErrBlock), ExitIntegrity},
		{errors.Join(errors.New("x"), errTimeLimit), ExitTimeLimit},
		{context.Canceled, 7},
	} {
		if got := exitOf(c.err, 7); got != c.want {
			t.Errorf("exitOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		app  int
		err  error
		want int
	}{
		{0, nil, 0},
		{3, nil, 3},
		{neverRan, errors.New("x"), ExitManifest},
		{neverRan, failed(ExitInput, errors.New("x")), ExitInput},
		{0, failed(ExitOutput, errors.New("x")), ExitOutput},
		{3, failed(ExitOutput, errors.New("x")), 3},
		{3, failed(ExitSeal, errors.New("x")), 3},
		{3, fmt.Errorf("x: %w", errTimeLimit), ExitTimeLimit},
		{137, errCancelled, ExitCancelled},
		{3, errMountDied, ExitMount},
		{3, failed(ExitIntegrity, fmt.Errorf("%w: %w", errLostInput, volume.ErrBlock)), ExitIntegrity},
	} {
		if got := exitCode(c.app, c.err); got != c.want {
			t.Errorf("exitCode(%d, %v) = %d, want %d", c.app, c.err, got, c.want)
		}
	}
}
