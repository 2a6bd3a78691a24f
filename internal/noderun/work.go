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

// work does everything between attestation and sealing.
func (n *node) work() error {
	if err := n.step("volumes", ExitIntegrity, n.openVolumes); err != nil {
		return err
	}
	if err := n.step("mounts", ExitMount, n.mount); err != nil {
		return err
	}
	if err := n.step("input checks", ExitInput, n.checkInputs); err != nil {
		return err
	}
	if err := n.runScripts(jobdir.InputStage, ExitInput); err != nil {
		return err
	}
	if err := n.step(StepApplication, ExitMount, n.runApplication); err != nil {
		return err
	}
	return n.runScripts(jobdir.OutputStage, ExitOutput)
}

// checkInputs is the built-in check: what a data set's SHA256SUMS lists is there.
func (n *node) checkInputs(ctx context.Context) error {
	for _, v := range n.volumes[1:] {
		files, err := checkSums(ctx, v.Reader)
		if err != nil {
			n.results.note("%s (%s): %v", v.what, v.rel, err)
			return fmt.Errorf("%s: %w", v.what, err)
		}
		n.results.note("%s (%s): %d files of its %s are as listed", v.what, v.rel, files, sumsName)
	}
	return nil
}

// runScripts runs a stage's verification scripts in the order in which the
// manifest lists them. The first that fails is the last.
func (n *node) runScripts(stage string, code int) error {
	for i, sc := range n.scripts[stage] {
		err := n.step(fmt.Sprintf("%s script %d", stage, i+1), code, func(context.Context) error {
			n.results.note("%s script %d is %s", stage, i+1, sc.Name)
			cmd := n.commands().Exec(container.Tools + "/" + container.ScriptDir(stage) + "/" + sc.Name)
			cmd.Stdout = n.space.Path(n.outputRel() + "/" + logFile)
			cmd.Stderr = cmd.Stdout
			exit, err := n.exec(cmd)
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

// runApplication runs the application to its end, or until it has to stop.
func (n *node) runApplication(context.Context) error {
	cmd := n.commands().Run(n.args)
	cmd.Stdout = n.space.Path(n.outputRel() + "/" + stdoutFile)
	cmd.Stderr = n.space.Path(n.outputRel() + "/" + stderrFile)
	exit, err := n.exec(cmd)
	if exit.Code != neverRan {
		n.app = exit.Code
		n.results.write(exitCodeFile, strconv.Itoa(exit.Code)+"\n", os.O_TRUNC)
	}
	if n.app == neverRan {
		n.log.Info("the application was not started, or left no exit code")
	} else {
		n.log.Info("application ended", "exit", n.app)
	}
	return err
}

func (n *node) commands() container.Commands {
	return container.Commands{Runtime: n.runtime, Space: n.space, Flags: n.flags, Environ: n.opt.Environ, Fuse: n.fuse}
}

// exec runs a command inside and kills whatever it leaves behind. The error is
// not nil if it was stopped (the halt's reason) or could not be waited for; its
// exit code is neverRan where there is none.
func (n *node) exec(cmd sandbox.Cmd) (sandbox.Exit, error) {
	none := sandbox.Exit{Code: neverRan}
	p, err := n.space.Start(cmd)
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
		err = n.mountDied()
	case <-n.halt.work.Done():
		n.log.Info("stopping", "reason", n.halt.reason())
		if serr := p.Signal(syscall.SIGTERM); serr != nil && !errors.Is(serr, os.ErrProcessDone) {
			n.log.Warn("cannot signal the application", "error", serr)
		}
		select {
		case <-ended:
		case <-n.halt.graced:
		}
		err = n.halt.reason()
	case ferr := <-n.space.Failed():
		err = n.mountFailed(ferr)
	}
	if kerr := n.space.KillAll(); kerr != nil {
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

// mountFailed is the end of a run whose space has failed. Altered volumes have
// another exit code than storage that does not answer.
func (n *node) mountFailed(err error) error {
	n.results.note("a mount failed: %v", err)
	if errors.Is(err, sandbox.ErrRead) {
		return failed(exitOf(err, ExitMount), fmt.Errorf("%w: %w", errLostInput, terse(err)))
	}
	return errMountDied
}

// mountDied tells whether a mount failed, whoever noticed first: the application
// by an error that ended it, or the space.
func (n *node) mountDied() error {
	select {
	case err := <-n.space.Failed():
		return n.mountFailed(err)
	default:
	}
	if _, err := n.results.root.Stat("."); err != nil {
		return errMountDied
	}
	return nil
}
