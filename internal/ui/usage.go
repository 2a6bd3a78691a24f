package ui

import (
	"fmt"
	"io"
	"sort"
	"strings"
)

// Usage writes the help: what the command does, its flags and an example.
func (f *Flags) Usage(w io.Writer) {
	line := f.Name
	if len(f.defs) > 0 {
		line += " [flags]"
	}
	if f.Arguments != "" {
		line += " " + f.Arguments
	}
	fmt.Fprintf(w, "%s\n\nUsage: %s\n", f.Summary, line)
	if f.Example != "" {
		fmt.Fprintf(w, "\nExample:\n%s\n", indent(f.Example))
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
