package noderun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// supervisor is what the phases of a run share: the log, the decision to stop,
// and the steps so far.
type supervisor struct {
	log     *slog.Logger
	halt    *halt
	started time.Time
	steps   []manifest.Step
	ended   int // exit code of what the step at hand has run, which is no error of the step's
}

// step does one thing and notes the time that it took, for log and receipt. It
// does not begin once the run has to stop.
func (s *supervisor) step(name string, code int, f func(ctx context.Context) error) error {
	if err := s.halt.reason(); err != nil {
		return err
	}
	return s.timed(name, code, func() error {
		err := f(s.halt.work)
		if reason := s.halt.reason(); reason != nil && errors.Is(err, context.Canceled) {
			err = reason
		}
		return err
	})
}

// timed is step for what happens whether or not the run has to stop.
func (s *supervisor) timed(name string, code int, f func() error) error {
	begin := time.Now()
	s.ended = 0
	err := f()
	done := manifest.Step{Name: name, Seconds: time.Since(begin).Seconds(), Exit: s.ended}
	if err != nil {
		err = failed(exitOf(err, code), fmt.Errorf("%s: %w", name, err))
		done.Exit = exitOf(err, code)
	}
	s.steps = append(s.steps, done)
	outcome := "ok"
	switch {
	case err != nil:
		outcome = "failed"
	case s.ended != 0:
		outcome = fmt.Sprintf("exit code %d", s.ended)
	}
	s.log.Info(fmt.Sprintf("%s: %s, %.2f s", name, outcome, done.Seconds))
	return err
}
