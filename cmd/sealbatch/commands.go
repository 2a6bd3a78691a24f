package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"runtime"

	"filippo.io/age/plugin"
	"golang.org/x/term"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
	"github.com/sealbatch/sealbatch/internal/version"
)

// steps are the commands that a program of their own name runs.
var steps = []string{"container-prep", "data-prep", "job-prep", "results"}

// commands lists every subcommand; entries without run are headings.
func commands() []command {
	return []command{
		{summary: "The steps of a job:"},
		{name: "container-prep", summary: "seal and ship a container image", run: runContainerPrep},
		{name: "data-prep", summary: "seal and ship a dataset", run: runDataPrep},
		{name: "job-prep", summary: "run a prepared image on a prepared dataset", run: runJobPrep},
		{name: "results", summary: "fetch, check and open what a job sealed", run: runResults},
		{name: "policy", summary: "show, replace or revoke who may open your volumes, or forget them", run: runPolicy},
		{summary: "\nSealed volumes, on any machine:"},
		{name: "seal", summary: "seal a directory or file into one encrypted volume", run: runSeal},
		{name: "open", summary: "open a sealed volume into a directory", run: runOpen},
		{name: "mount", summary: "mount a sealed volume read-only", run: runMount},
		{name: "inspect", summary: "show what a sealed volume is, and what it holds", run: runInspect},
		{name: "verify", summary: "check every file in a sealed volume", run: runVerify},
		{name: "rewrap", summary: "change who can open a sealed volume", run: runRewrap},
		{summary: "\nServices:"},
		{name: "serve", summary: "the key service", hangUp: true, run: runServe},
		{name: "serve account", summary: "show or end what an account has at the key service", run: runServeAccount},
		{name: "verifier", summary: "vouch for jobs inside a cluster", run: runVerifier},
		{name: "audit", summary: "check the key service's audit log", run: runAudit},
		{summary: "\nOther:"},
		{name: "doctor", summary: "try what jobs need, here or on a compute node", hardens: true, run: runDoctor},
		{name: "node-run", hidden: true, run: runNode},
		{name: "version", summary: "print the version", run: runVersion},
	}
}

// plugins returns how the age plugins that the user named talk to them.
func (a *app) plugins() *plugin.ClientUI {
	say := func(format string, v ...any) { fmt.Fprintln(a.stderr, text.Printable(fmt.Sprintf(format, v...))) }
	return plugin.NewTerminalUI(say, say)
}

// skipped tells of a key in a list that is passed over.
func (a *app) skipped(err error) { a.log.Warn(err.Error()) }

// passphrase asks on the terminal, without echo.
func (a *app) passphrase(prompt string) ([]byte, error) {
	fd := int(a.stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, errors.New("a passphrase is needed and there is no terminal to ask on")
	}
	fmt.Fprint(a.stderr, prompt)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(a.stderr)
	return b, err
}

// licenses are the texts under which the programs' parts may be used; both programs carry them wherever they go.
//
//go:embed licenses.txt
var licenses string

func runVersion(_ context.Context, a *app, args []string) error {
	f := ui.NewFlags("sealbatch version", "Print the version.", "", "sealbatch version")
	var texts bool
	f.Bool(&texts, "print the licenses of all that is in sealbatch and in the gocryptfs beside it", []string{"licenses"})
	if err := a.parse(f, args); err != nil {
		return err
	}
	if texts {
		_, err := io.WriteString(a.stdout, licenses)
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "sealbatch %s %s %s/%s\n", version.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// oneArg returns the only argument, which what names.
func oneArg(f *ui.Flags, what string) (string, error) {
	switch args := f.Args(); len(args) {
	case 1:
		return args[0], nil
	case 0:
		return "", fault.New(fault.Usage, fmt.Errorf("%s: %s is missing", f.Name, what), f.Name+" --help shows an example")
	default:
		return "", fault.New(fault.Usage, fmt.Errorf("%s: one %s, not %d", f.Name, what, len(args)), f.Name+" --help shows an example")
	}
}
