package jobdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/shellwords"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Removal is the removing of a job's directory, or of a part of it, at the site.
//
// Others may have put anything in the place of its path, so nothing below it is removed
// by path: not over SFTP, which knows no other way, and not by a plain rm -rf. A shell at
// the site enters the directory first and looks then at where it is (one's own, 0700,
// with the job's manifest), and removes by names relative to there, which nobody else can
// exchange. The directory itself goes by rmdir, which removes empty ones only.
type Removal struct {
	Dir      string          // path of the job's directory
	Real     string          // the same without symbolic links, if that is known: nothing is removed elsewhere
	Manifest manifest.Digest // of what it was submitted with
	// Scratch names a node's directory of which the scratch volume goes; "" for all
	// that job-prep makes.
	Scratch string
}

// Runner runs a command at the site; see transfer.Client.Run.
type Runner interface {
	Run(ctx context.Context, argv []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error)
}

// ErrNotRemoved: nothing, or not all, was removed.
var ErrNotRemoved = errors.New("not removed")

// ErrNotReadable: nothing, or not all, was made readable.
var ErrNotReadable = errors.New("not made readable")

// done is the last line of what is complete: a login that runs no commands, but
// says that all is well, does not write it.
const done = "sealbatch: done"

// own is the shell's look at the directory that it has entered.
const own = `[ -O . ] && case $(stat -c %a .) in 700|2700) ;; *) false ;; esac`

// Command returns the removal as a line for a shell at the site.
func (r Removal) Command() string { return shellwords.QuoteArgs(r.argv()...) }

func (r Removal) argv() []string {
	if r.Scratch != "" {
		return byShell(r.scratch())
	}
	return byShell(r.all())
}

// byShell returns the command line of a script that says when it is done.
func byShell(script string) []string {
	return []string{"sh", "-c", shellwords.CleanSearch + script + " && echo " + shellwords.QuoteArgs(done)}
}

// enter enters the directory.
func (r Removal) enter() string {
	enter := "cd -P -- " + shellwords.QuoteArgs(r.Dir) + " && "
	if r.Real != "" { // a copy of it elsewhere has the same manifest
		enter += `[ "$(pwd -P)" = ` + shellwords.QuoteArgs(r.Real) + " ] && "
	}
	return enter + own
}

// check compares the manifest there.
func (r Removal) check() string {
	return "echo " + shellwords.QuoteArgs(r.Manifest.Hex()+"  "+ManifestName) + " | sha256sum -c --status"
}

func (r Removal) scratch() string {
	dir := shellwords.QuoteArgs("./" + path.Join(NodesDir, r.Scratch, ScratchName))
	return r.enter() + " && " + r.check() + " && " + writable(dir) + " && rm -rf -- " + dir
}

// writable makes directories so that an application has made read-only.
func writable(dir string) string { return "chmod -R u+rwX -- " + dir }

// MakeReadable has the site make readable what a node has left of its outputs: what the job's owner has
// closed to themselves is theirs all the same. ErrNotReadable if something else lies there, or no
// command can be run.
func (r Removal) MakeReadable(ctx context.Context, site Runner, node string) error {
	if !IsNodeName(node) {
		return fmt.Errorf("%w: %.80q is not the name of a node's directory", ErrNotReadable, node)
	}
	dir := shellwords.QuoteArgs("./" + path.Join(NodesDir, node, CipherDirName))
	return do(ctx, site, byShell(r.enter()+" && "+r.check()+" && chmod -R u+rX -- "+dir), ErrNotReadable)
}

// all removes what is in a job's directory. The manifest is the first that job-prep writes, and goes
// last: a directory without one, or with an empty one, has nothing else in it.
func (r Removal) all() string {
	var names []string
	for _, name := range []string{BinDir, ScriptsDir, NodesDir, ScriptName, LogName, SignatureName} {
		names = append(names, "./"+name)
	}
	dir, nodes := shellwords.QuoteArgs(r.Dir), "./"+NodesDir
	return "if [ -e " + dir + " ] || [ -L " + dir + " ]; then " + r.enter() + " && " +
		"if [ -s " + ManifestName + " ]; then " + r.check() + " && " +
		"{ [ ! -d " + nodes + " ] || " + writable(nodes) + "; } && rm -rf -- " + shellwords.QuoteArgs(names...) + "; fi && " +
		"rm -f -- ./" + ManifestName + " && cd / && rmdir -- " + dir + "; fi && " + unlinkLog(r.Dir)
}

// Do has the removal done at the site. ErrNotRemoved if something else lies there, or no
// command can be run.
func (r Removal) Do(ctx context.Context, site Runner) error {
	if r.Scratch != "" && !IsNodeName(r.Scratch) {
		return fmt.Errorf("%w: %.80q is not the name of a node's directory", ErrNotRemoved, r.Scratch)
	}
	return do(ctx, site, r.argv(), ErrNotRemoved)
}

// do runs a shell's command line. The error is failed if it is not done.
func do(ctx context.Context, site Runner, argv []string, failed error) error {
	out, errOut, _, err := site.Run(ctx, argv, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", failed, err)
	}
	if strings.HasSuffix(strings.TrimSpace(string(out)), done) {
		return nil
	}
	why := text.Printable(strings.TrimSpace(string(errOut)))
	if why == "" {
		why = "it is not, or no longer, the directory that the job was given"
	}
	return fmt.Errorf("%w: %.500s", failed, why)
}
