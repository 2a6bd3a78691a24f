package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/sandbox"
)

// StepApplication is what a receipt calls the running of the application.
const StepApplication = "application"

// ran is a job whose application has ended, or could not be started.
type ran struct {
	*mounted
	app int   // its exit code, or neverRan
	err error // why the run ended early; an application's own failure is none
}

// run checks the inputs, and runs the application between the verification
// scripts.
func (m *mounted) run() ran {
	r := ran{mounted: m, app: neverRan}
	if r.err = m.step("input checks", ExitInput, m.checkInputs); r.err != nil {
		return r
	}
	if r.err = m.runScripts(jobdir.InputStage, ExitInput); r.err != nil {
		return r
	}
	r.err = m.step(StepApplication, ExitMount, func(context.Context) (err error) {
		r.app, err = m.runApplication()
		return err
	})
	if r.err == nil {
		r.err = m.runScripts(jobdir.OutputStage, ExitOutput)
	}
	return r
}

// checkInputs runs the built-in check: what a dataset's SHA256SUMS lists is there.
func (m *mounted) checkInputs(ctx context.Context) error {
	for _, v := range m.volumes[1:] {
		files, err := checkSums(ctx, v.Reader)
		if err != nil {
			m.results.note("%s (%s): %v", v.what, v.rel, err)
			return fmt.Errorf("%s: %w", v.what, err)
		}
		m.results.note("%s (%s): %d files of its %s are as listed", v.what, v.rel, files, sumsName)
	}
	return nil
}

// runScripts runs a stage's verification scripts in the order in which the
// manifest lists them. The first that fails is the last.
func (m *mounted) runScripts(stage string, code int) error {
	for i, sc := range m.scripts[stage] {
		err := m.step(fmt.Sprintf("%s script %d", stage, i+1), code, func(context.Context) error {
			m.results.note("%s script %d is %s", stage, i+1, sc.Name)
			cmd := m.commands().Exec(container.Tools + "/" + container.ScriptDir(stage) + "/" + sc.Name)
			cmd.Stdout = m.space.Path(m.outputRel() + "/" + logFile)
			cmd.Stderr = cmd.Stdout
			exit, err := m.exec(cmd)
			if err == nil && exit.Code != 0 {
				err = fmt.Errorf("it ended with exit code %d; its output is in %s among the results", exit.Code, logFile)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// runApplication runs the application to its end, or until it has to stop. It
// returns the exit code, or neverRan.
func (m *mounted) runApplication() (exit int, err error) {
	cmd := m.commands().Run(m.args)
	cmd.Stdout = m.space.Path(m.outputRel() + "/" + stdoutFile)
	cmd.Stderr = m.space.Path(m.outputRel() + "/" + stderrFile)
	end, err := m.exec(cmd)
	if end.Code == neverRan {
		m.log.Info("the application was not started, or left no exit code")
		return neverRan, err
	}
	m.results.write(exitCodeFile, strconv.Itoa(end.Code)+"\n", os.O_TRUNC)
	m.log.Info("application ended", "exit", end.Code)
	return end.Code, err
}

func (m *mounted) commands() container.Commands {
	return container.Commands{Runtime: m.runtime, Space: m.space, Flags: m.flags, Environ: m.environ, Fuse: m.fuse}
}

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
	if _, err := m.results.root.Stat("."); err != nil {
		return errMountDied
	}
	return nil
}
