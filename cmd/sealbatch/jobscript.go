package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/jobprep"
)

// byHand checks the flags about a script that is left to be submitted by hand.
func (j *jobFlags) byHand() error {
	switch {
	case j.noSubmit && j.follow:
		return usageError("--no-submit submits nothing that --follow could follow", "leave one of them out")
	case j.script == "":
		return nil
	case !j.noSubmit:
		return usageError("--output is for the script that --no-submit leaves", "add --no-submit, or leave it out")
	}
	err := output.File{Path: j.script}.Check()
	if errors.Is(err, fs.ErrExist) {
		err = fault.WithHint(err, "name another file, or remove that one") // job-prep's --force means something else
	}
	return err
}

// leaveScript says where the script of a prepared job lies, for who submits it by hand, and writes it to a file here, if
// one is named.
func leaveScript(a *app, p jobprep.Prepared, file string) error {
	if p.Credentials != "" {
		a.log.Warn("the script has the job's " + p.Credentials + " in it: who reads it can use them before the job does")
	}
	a.log.Info("ready; submit it once, at the site: sbatch " + shellwords.QuoteArgs(p.ScriptPath))
	a.log.Info("when it has run: sealbatch results " + shellwords.QuoteArgs(p.Record.JobDir))
	fmt.Fprintln(a.stdout, p.ScriptPath)
	if file == "" {
		return nil
	}
	made, err := output.File{Path: file}.Create()
	if err != nil {
		return err
	}
	if _, err := made.Write(p.Script); err != nil {
		made.Discard()
		return err
	}
	return made.Commit()
}
