// Command sealbatch runs sensitive data through a container on a shared Slurm
// supercomputer without the site's storage ever holding plaintext.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/harden"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// app is what a command is given: the outside world.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	log            *slog.Logger
}

// command is one subcommand.
type command struct {
	name    string // one word, or two
	summary string // one line
	hidden  bool   // run by sealbatch itself, not by people
	// hardens says that the command makes the process undumpable by itself, before
	// it reads a key: it makes namespaces first, which an undumpable one cannot.
	hardens bool
	hangUp  bool // SIGHUP means something else than the end: its files are read anew
	run     func(ctx context.Context, a *app, args []string) error
}

// exitStatus is an error that ends the process with a code and prints nothing.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	runChild(os.Args)
	os.Exit(realMain(words(os.Args)))
}

// words returns what was typed after "sealbatch". A link to the program that has the name of one of a job's steps runs
// that step: so HPCS's images have each a program of their own.
func words(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if step := filepath.Base(argv[0]); slices.Contains(steps, step) {
		return append([]string{step}, argv[1:]...)
	}
	return argv[1:]
}

func realMain(args []string) int {
	out := ui.NewOutput(os.Stdout, stdoutClosed())
	a := &app{stdin: os.Stdin, stdout: out, stderr: os.Stderr}
	a.log = slog.New(ui.NewLogHandler(a.stderr))
	err := dispatch(a, args)
	giveState()
	if unwritten := out.Close(); err == nil || errors.Is(err, flag.ErrHelp) || errors.Is(err, unwritten) {
		err = unwritten
	}
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, context.Canceled) && fault.ClassOf(err) == fault.Interrupted:
		fmt.Fprintln(a.stderr, "interrupted")
		if h := fault.Hint(err); h != "" {
			fmt.Fprintf(a.stderr, "hint: %s\n", text.Printable(h))
		}
		return exitCodes[fault.Interrupted]
	}
	ui.PrintError(a.stderr, err)
	return exitCode(err)
}

// parse reads a command's arguments (ui.Flags.Parse), and says which of them do not count.
func (a *app) parse(f *ui.Flags, args []string) error {
	err := f.Parse(args, a.stdout)
	for _, n := range f.Notes() {
		a.log.Warn(n)
	}
	return err
}

func dispatch(a *app, args []string) error {
	if len(args) == 0 {
		usage(a.stderr)
		return exitStatus(exitCodes[fault.Usage])
	}
	switch args[0] {
	case "help", "--help", "-h", "-help":
		if len(args) == 1 || strings.HasPrefix(args[1], "-") {
			usage(a.stdout)
			return nil
		}
		args = append(args[1:], "--help")
	case "--version", "-version":
		args = []string{"version"}
	}
	if c, rest, ok := findCommand(args); ok {
		err := runCommand(a, c, rest)
		if c.hidden || err == nil || errors.Is(err, flag.ErrHelp) || errors.As(err, new(exitStatus)) {
			return err
		}
		return forPeople(c, err)
	}
	var names []string
	for _, c := range commands() {
		if !c.hidden {
			names = append(names, c.name)
		}
	}
	hint := "sealbatch help lists the commands"
	if near := ui.Nearest(args[0], names); near != "" {
		hint = "did you mean sealbatch " + near + "?"
	}
	if of := hpcsProgram(args[0]); of != "" {
		hint = "that is a program of HPCS: " + of
	}
	return fault.New(fault.Usage, fmt.Errorf("unknown command %q", args[0]), hint)
}

// findCommand returns the command that words begin with, and what follows it.
func findCommand(words []string) (found command, rest []string, ok bool) {
	for _, c := range commands() {
		n := len(strings.Fields(c.name))
		if c.run != nil && n <= len(words) && c.name == strings.Join(words[:n], " ") && len(c.name) > len(found.name) {
			found, rest, ok = c, words[n:], true
		}
	}
	return found, rest, ok
}

// runCommand cancels the context at the first Ctrl-C, SIGTERM or, but for nohup's,
// SIGHUP, so that the command can clean up; a second one ends the process at once.
// Hidden commands see to their signals, and to keys in their memory, themselves.
func runCommand(a *app, c command, args []string) error {
	if c.hidden {
		return c.run(context.Background(), a, args)
	}
	if !c.hardens {
		if err := harden.Process(); err != nil {
			return err
		}
	}
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !c.hangUp && !signal.Ignored(syscall.SIGHUP) {
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := c.run(ctx, a, args)
	if ctx.Err() != nil && err != nil {
		if fault.ClassOf(err) == fault.Interrupted {
			return err // it may say what goes on by itself
		}
		return context.Canceled
	}
	return err
}

func usage(w io.Writer) {
	w = ui.Fitted(w)
	fmt.Fprint(w, `sealbatch runs sensitive data through a container on a Slurm supercomputer without
the site's storage ever holding plaintext.

Usage: sealbatch COMMAND [flags]

`)
	for _, c := range commands() {
		switch {
		case c.hidden:
		case c.run == nil:
			fmt.Fprintf(w, "%s\n", c.summary)
		default:
			fmt.Fprintf(w, "  %-15s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprint(w, `
sealbatch help COMMAND shows a command's flags and an example.

Exit codes: 2 usage, 3 configuration, 4 SSH or host key, 5 attestation refused, 6 key refused,
7 integrity, 8 Slurm, 9 job failed, 10 not all of it is there, 11 the job ended and left nothing,
130 interrupted, 1 anything else.
`)
}
