package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/term"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/ui"
)

// confirmFinal is confirm for what cannot be undone.
func (a *app) confirmFinal(ctx context.Context, yes bool, what string) error {
	return a.confirm(ctx, yes, what+"This is final.\n", "--yes does it without a question")
}

// confirmIfAsked is confirm for what a script may do without a word: it asks where somebody
// is there to be asked, and goes on otherwise.
func (a *app) confirmIfAsked(ctx context.Context, yes bool, what string) error {
	if !term.IsTerminal(int(a.stdin.Fd())) || !ui.IsTerminal(a.stderr) {
		return nil
	}
	return a.confirm(ctx, yes, what, "")
}

// confirm says what is going to happen and asks on the terminal whether it should.
// Without one, and without yes, it is refused with a hint.
func (a *app) confirm(ctx context.Context, yes bool, what, hint string) error {
	if yes {
		return nil
	}
	for line := range strings.Lines(what) { // others may have chosen a part of it: paths, names
		fmt.Fprintln(a.stderr, text.Printable(line))
	}
	if !term.IsTerminal(int(a.stdin.Fd())) {
		return usageError("nothing was done: there is no terminal to ask on whether it should be", hint)
	}
	fmt.Fprint(a.stderr, "Go on? [y/N] ")
	answered := make(chan string, 1)
	go func() {
		var answer string
		_, _ = fmt.Fscanln(a.stdin, &answer) // no answer is no
		answered <- answer
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.stderr)
		return context.Cause(ctx)
	case answer := <-answered:
		if !strings.HasPrefix(strings.ToLower(answer), "y") {
			return fault.New(fault.Usage, errNothingDone, "")
		}
	}
	return nil
}

// errNothingDone is the answer no to a question.
var errNothingDone = errors.New("nothing was done")
