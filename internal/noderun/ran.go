package noderun

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/jobdir"
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
	number := 0
	for _, sc := range m.scripts[stage] {
		if !sc.Check() {
			continue // what the scripts read
		}
		number++
		err := m.step(fmt.Sprintf("%s script %d", stage, number), code, func(context.Context) error {
			m.results.note("%s script %d is %s", stage, number, sc.Name)
			commands := m.commands()
			if stage == jobdir.InputStage {
				commands.Pwd = container.Dataset // as in HPCS
			}
			cmd := commands.Exec(container.Tools + "/" + container.ScriptDir(stage) + "/" + sc.Name)
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
	end.Code = m.ownExitCode(end.Code)
	m.ended = end.Code
	m.results.write(exitCodeFile, strconv.Itoa(end.Code)+"\n", os.O_TRUNC)
	m.log.Info("application ended", "exit", end.Code)
	return end.Code, err
}

// ownExitCode returns the exit code of an application whose container ended with code. The entry point of an image that
// HPCS prepared ends well whatever the application did, and has written its exit code where this is written.
func (m *mounted) ownExitCode(code int) int {
	said := strings.TrimSpace(m.results.read(exitCodeFile, maxExitCode))
	own, err := strconv.ParseUint(said, 10, 8)
	if code != 0 || err != nil || own == 0 {
		return code
	}
	m.results.note("the container ended with exit code 0, and had written %d into %s: that counts", own, exitCodeFile)
	return int(own)
}

// maxExitCode bounds what is read of a file with an exit code, in bytes.
const maxExitCode = 16

func (m *mounted) commands() container.Commands {
	c := container.Commands{Runtime: m.runtime, Space: m.space, Flags: m.flags, Environ: m.environ, Fuse: m.fuse,
		Network: m.manifest.Network}
	switch image := m.manifest.Volumes[0]; {
	case image.Image != nil:
		c.Prepared = image.Image.Prepared
	case image.HPCS != nil:
		c.Prepared = image.HPCS.Prepared
	}
	return c
}
