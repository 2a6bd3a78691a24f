package noderun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// exec runs a command inside and kills whatever it leaves behind. The error is
// not nil if it was stopped (the halt's reason) or could not be waited for; its
// exit code is neverRan where there is none.
func (m *mounted) exec(cmd sandbox.Cmd) (sandbox.Exit, error) {
	none := sandbox.Exit{Code: neverRan}
	p, err := m.space.Start(cmd)
	if err != nil {
		return none, failed(ExitMount, fmt.Errorf("start the container runtime: %w", err))
	}
	var exit sandbox.Exit
	var waitErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		exit, waitErr = p.Wait()
	}()
	select {
	case <-ended:
		err = m.mountDied()
	case <-m.halt.work.Done():
		m.log.Info("stopping", "reason", m.halt.reason())
		if serr := p.Signal(syscall.SIGTERM); serr != nil && !errors.Is(serr, os.ErrProcessDone) {
			m.log.Warn("cannot signal the application", "error", serr)
		}
		select {
		case <-ended:
		case <-m.halt.graced:
		}
		err = m.halt.reason()
	case ferr := <-m.space.Failed():
		err = m.mountFailed(ferr)
	}
	if kerr := m.space.KillAll(); kerr != nil {
		return none, failed(ExitMount, errors.Join(err, kerr))
	}
	<-ended
	if waitErr != nil {
		return none, failed(ExitMount, errors.Join(err, waitErr))
	}
	return exit, err
}

// errMountDied: what the application did after it is not what it would have done.
var errMountDied = failed(ExitMount, errors.New("a mount failed while the container ran"))

// errLostInput: the container got an error instead of a part of the image or of
// an input. Whatever it made of that, it is not the result that was wanted.
var errLostInput = errors.New("the image or an input could not be read while the container ran")

// mountFailed returns the error of a run whose space has failed. Altered volumes have
// another exit code than storage that does not answer.
func (m *mounted) mountFailed(err error) error {
	m.results.note("a mount failed: %v", err)
	if errors.Is(err, sandbox.ErrRead) {
		return failed(exitOf(err, ExitMount), fmt.Errorf("%w: %w", errLostInput, terse(err)))
	}
	return errMountDied
}

// mountDied returns an error if a mount failed, whoever noticed first: the application
// by an error that ended it, or the space.
func (m *mounted) mountDied() error {
	select {
	case err := <-m.space.Failed():
		return m.mountFailed(err)
	default:
	}
	// The application may have closed the directory to itself, which shows that the mount lives.
	if _, err := m.results.root.Stat("."); err != nil && !errors.Is(err, fs.ErrPermission) {
		return errMountDied
	}
	return nil
}
