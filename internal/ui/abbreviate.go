package ui

import (
	"slices"
	"strings"
)

// Whole makes the flag count only if its name is written in full: for what lifts a protection or removes something.
func Whole(d *def) { d.whole = true }

// Prefer names the flags that are meant by an abbreviation that could mean others as well: those of the program whose
// command lines people bring along.
func (f *Flags) Prefer(names ...string) {
	for _, n := range names {
		f.names[n].preferred = append(f.names[n].preferred, n)
	}
}

// abbreviated returns the flag that the beginning of a long name means, as Python's argparse takes it: --nodel is
// --nodelist. If it means none but begins so, or could be several, it returns their names, as they are written.
func (f *Flags) abbreviated(arg, name string) (_ *def, several []string) {
	if !strings.HasPrefix(arg, "--") || name == "" {
		return nil, nil
	}
	var found, preferred []*def
	for _, d := range f.defs {
		begins := func(n string) bool { return strings.HasPrefix(d.dash(n), "--") && strings.HasPrefix(n, name) }
		if i := slices.IndexFunc(d.names, begins); i >= 0 {
			found, several = append(found, d), append(several, d.dash(d.names[i]))
		}
		if slices.ContainsFunc(d.preferred, begins) {
			preferred = append(preferred, d)
		}
	}
	if len(preferred) == 1 {
		found = preferred
	}
	if len(found) != 1 || found[0].whole {
		return nil, several
	}
	return found[0], nil
}

// unclear is the error about the beginning of names that means none of them.
func (f *Flags) unclear(arg string, names []string) error {
	arg, _, _ = strings.Cut(arg, "=")
	if len(names) == 1 {
		return f.errorf("did you mean "+names[0]+"? It counts in full only", "unknown flag %s", arg)
	}
	return f.errorf("write the name in full", "%s could be %s", arg, orList(names))
}
