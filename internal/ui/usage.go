package ui

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/sealbatch/sealbatch/internal/text"
)

// Usage writes the help: what the command does, its flags and an example. On a terminal, lines are broken between words.
func (f *Flags) Usage(w io.Writer) {
	whole := w // what is there to be copied is not broken
	w = Fitted(w)
	line := f.Name
	if len(f.defs) > 0 {
		line += " [flags]"
	}
	if f.Arguments != "" {
		line += " " + f.Arguments
	}
	fmt.Fprintf(w, "%s\n\nUsage: %s\n", f.Summary, line)
	if f.Example != "" {
		fmt.Fprintf(whole, "\nExample:\n%s\n", indent(f.Example))
	}
	if len(f.defs) > 0 {
		fmt.Fprintf(w, "\nFlags:\n")
	}
	for _, d := range f.defs {
		fmt.Fprintf(w, "  %s\n", d.heading())
		fmt.Fprintf(w, "        %s%s\n", strings.ReplaceAll(d.usage, "\n", "\n        "), d.remark())
	}
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ")
}

// heading returns "-o, --output-path, --output-data VALUE", the shortest name first.
func (d *def) heading() string {
	names := append([]string(nil), d.names...)
	sort.SliceStable(names, func(i, j int) bool { return len(names[i]) < len(names[j]) })
	for i, n := range names {
		names[i] = d.dash(n)
	}
	line := strings.Join(names, ", ")
	if !d.isSwitch {
		line += " VALUE"
	}
	return line
}

func (d *def) remark() string {
	switch {
	case d.required && d.repeated:
		return " (required, may be repeated)"
	case d.required:
		return " (required)"
	case d.repeated:
		return " (may be repeated)"
	case !d.isSwitch && d.shown != "" && d.shown != "0":
		return " (default " + d.shown + ")"
	}
	return ""
}

// dash writes a name as it is documented: HPCS's -ai, -di, -args and -flags have one dash.
func (d *def) dash(name string) string {
	if len(name) <= 2 || (d.verbatim && len(name) <= len("flags")) {
		return "-" + name
	}
	return "--" + name
}

// dashed returns the name that messages use: the longest.
func (d *def) dashed() string { return d.dash(d.longest()) }

func (d *def) longest() (name string) {
	for _, n := range d.names {
		if len(n) > len(name) {
			name = n
		}
	}
	return name
}

// Fitted returns a writer of whole lines to w that breaks those that do not fit, if w is an Output on a terminal; else w.
func Fitted(w io.Writer) io.Writer { return Hanging(w, 0) }

// Hanging is Fitted, and indents what follows by so much more than the line.
func Hanging(w io.Writer, by int) io.Writer {
	if t, ok := w.(interface{ Columns() int }); ok && t.Columns() > 0 {
		return &wrapper{w, t.Columns(), by}
	}
	return w
}

// wrapper breaks lines that do not fit between words, and indents what follows as they are. Each Write is whole lines.
type wrapper struct {
	w       io.Writer
	columns int
	hang    int
}

func (w *wrapper) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := io.WriteString(w.w, wrap(strings.TrimSuffix(line, "\n"), w.columns, w.hang)+"\n"); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func wrap(line string, columns, hang int) string {
	margin := line[:len(line)-len(strings.TrimLeft(line, " "))]
	if text.Width(line) <= columns {
		return line
	}
	var b strings.Builder
	at := len(margin)
	b.WriteString(margin)
	next := margin + strings.Repeat(" ", hang)
	for i, word := range strings.Fields(line) {
		switch width := text.Width(word); {
		case i == 0:
			at += width
		case at+1+width > columns:
			b.WriteString("\n" + next)
			at = len(next) + width
		default:
			b.WriteString(" ")
			at += 1 + width
		}
		b.WriteString(word)
	}
	return b.String()
}
