package ui

import (
	"fmt"
	"io"
)

// Finding is one thing that a diagnosis looked at.
type Finding struct {
	What   string
	Bad    bool   // jobs cannot run like this
	Warn   bool   // they can, but somebody should know
	Detail string // what was found, or why it is bad
	Fix    string // what to do about it; may be empty
}

// PrintFinding writes "ok", "--" or "NO" with what was found, and the cure on a line of its own.
func PrintFinding(w io.Writer, f Finding) {
	mark := "ok"
	switch {
	case f.Bad:
		mark = "NO"
	case f.Warn:
		mark = "--"
	}
	fmt.Fprintf(w, "%s  %s: %s\n", mark, f.What, Printable(f.Detail))
	if f.Fix != "" {
		fmt.Fprintf(w, "    fix: %s\n", Printable(f.Fix))
	}
}
