package config

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/ini.v1"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// reading hands the values of one file to its schema.
type reading struct {
	*file
	schema   schema
	lenient  bool // what is not known is passed over, unless it is near to what is
	defaults *ini.Section
	used     []string // keys of [DEFAULT] that a section knows
}

// hpcsStyle reports whether a file says what only HPCS's programs want to know, where SPIRE and Vault are, or has
// values for whoever reads it.
func hpcsStyle(parsed *ini.File) bool {
	for _, name := range []string{ini.DefaultSection, "spire-server", "vault"} {
		if len(parsed.Section(name).Keys()) > 0 {
			return true
		}
	}
	return false
}

func (r *reading) section(section *ini.Section) error {
	name := section.Name()
	keys, others, err := r.schema.keysOf(name)
	if err != nil {
		for _, k := range section.Keys() {
			if err := r.misplaced(name, k.Name()); err != nil {
				return err
			}
		}
		return r.pass(r.errorf(name, "", "%v", err), near(name, r.schema.names()) != "", "unknown section [%s]", name)
	}
	for _, got := range slices.Concat(section.Keys(), r.inherited(section, keys)) {
		k, ok := find(keys, got.Name())
		if !ok && others != nil {
			k = otherKey(got.Name(), others)
		} else if !ok {
			if err := r.unknownKey(name, got.Name(), keys); err != nil {
				return err
			}
			continue
		}
		values := clean(got.ValueWithShadows())
		if r.lenient && !k.repeated {
			for i, v := range values {
				if values[i], err = r.interpolated(section, v, 0); err != nil {
					return err
				}
			}
		}
		if err := r.set(name, k, values); err != nil {
			return err
		}
	}
	return nil
}

// inherited returns the keys of [DEFAULT] that a section knows and does not have itself.
func (r *reading) inherited(section *ini.Section, keys []key) (out []*ini.Key) {
	for _, k := range r.defaults.Keys() {
		if _, ok := find(keys, k.Name()); !ok {
			continue
		}
		r.used = append(r.used, k.Name())
		own := func(o *ini.Key) bool { return strings.EqualFold(o.Name(), k.Name()) }
		if !slices.ContainsFunc(section.Keys(), own) {
			out = append(out, k)
		}
	}
	return out
}

func (r *reading) set(section string, k key, values []string) error {
	if !k.repeated && len(values) > 1 {
		return fail(Error{File: r.path, Line: r.lineOf(section, k.name),
			What: fmt.Sprintf("[%s] %s is given %d times or over several lines", section, k.name, len(values)),
			Next: "a line that is indented deeper than its key's goes on with the value above it"})
	}
	if len(values) == 0 && k.narrows {
		return fail(Error{File: r.path, Line: r.lineOf(section, k.name), What: fmt.Sprintf("[%s] %s is empty", section, k.name),
			Next: "give it a value, or take the line out if nobody is to be kept out by it"})
	}
	if len(values) == 0 {
		return nil // `key =` means the default, as HPCS's own `pre-command = ""`
	}
	err := k.set(values)
	if err == nil {
		return nil
	}
	hint := fault.Hint(err)
	if strings.Contains(values[0], " ;") || strings.Contains(values[0], " #") {
		hint = "comments stand on lines of their own: what follows a value on its line is part of it"
	}
	return fail(Error{File: r.path, Line: r.lineOf(section, k.name), What: fmt.Sprintf("[%s] %s: %v", section, k.name, err), Next: hint})
}

func (r *reading) unknownKey(section, name string, keys []key) error {
	var known []string
	for _, k := range keys {
		known = append(known, k.name)
	}
	if err := r.misplaced(section, name); err != nil && near(name, known) == "" {
		return err
	}
	err := r.errorf(section, name, "unknown key %q in [%s]%s", name, section, suggest("; did you mean %q?", name, known))
	return r.pass(err, near(name, known) != "", "unknown key %q in [%s]", name, section)
}

// misplaced returns an error if a key that no section of that name has is one, or nearly one, that narrows whom the user
// believes, and belongs elsewhere: it would have no effect. The sections for HPCS's own services may have such keys of theirs.
func (r *reading) misplaced(section, name string) error {
	if section == "spire-server" || section == "vault" {
		return nil
	}
	for at, keys := range r.schema.sections {
		for _, k := range keys {
			if k.narrows && near(name, []string{k.name}) != "" {
				return r.errorf(section, name, "unknown key %q in [%s]; did you mean %s under [%s]?", name, section, k.name, at)
			}
		}
	}
	return nil
}

// pass returns err, or nil and a warning where that is enough: what is not known here may be another program's. Not if
// it is nearly what is known: a mistake in ca-cert or known-hosts would widen whom the user believes.
func (r *reading) pass(err error, isNear bool, format string, args ...any) error {
	if !r.lenient || isNear {
		return err
	}
	r.warn(format, args...)
	return nil
}

func (r *reading) warn(format string, args ...any) {
	r.warnings = append(r.warnings, r.path+": "+fmt.Sprintf(format, args...)+": passed over")
}

// unusedDefaults warns of keys in [DEFAULT] that no section of the file knows.
func (r *reading) unusedDefaults() error {
	for _, k := range r.defaults.Keys() {
		if slices.Contains(r.used, k.Name()) {
			continue
		}
		err := r.errorf(ini.DefaultSection, k.Name(), "no section knows %q in [%s]", k.Name(), ini.DefaultSection)
		if err := r.pass(err, near(k.Name(), r.schema.allKeys()) != "", "no section knows %q in [%s]", k.Name(), ini.DefaultSection); err != nil {
			return err
		}
	}
	return nil
}

// names returns the names of the sections that there may be.
func (s schema) names() (known []string) {
	for n := range s.sections {
		known = append(known, n)
	}
	for n := range s.named {
		known = append(known, n)
	}
	for n := range s.othersOf {
		known = append(known, n)
	}
	return known
}

// allKeys returns the names of the keys of all sections that have no name of their own.
func (s schema) allKeys() (known []string) {
	for _, keys := range s.sections {
		for _, k := range keys {
			known = append(known, k.name)
		}
	}
	return known
}

// near returns the known word that got must be a slip of, or "": one is the other's beginning (ca-certificate), or
// few letters differ (ca_cert, known-host). It is stricter than what suggest suggests: host is not port.
func near(got string, known []string) string {
	letters := func(s string) string {
		return strings.NewReplacer("-", "", "_", "", " ", "", ".", "").Replace(strings.ToLower(s))
	}
	g := letters(got)
	for _, k := range known {
		w := letters(k)
		short, long := g, w
		if len(short) > len(long) {
			short, long = long, short
		}
		beginning := strings.HasPrefix(long, short) && (len(short) >= 4 || short == "ca")
		if beginning || distance(g, w) <= max(1, len(g)/4) {
			return k
		}
	}
	return ""
}
