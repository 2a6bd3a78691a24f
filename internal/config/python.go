package config

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"

	"gopkg.in/ini.v1"
)

// sectionRE is configparser's: a heading is all between the first and the last bracket, and what follows does not count.
var sectionRE = regexp.MustCompile(`^\[(.+)\]`)

// pythonLines returns the file's lines so that indentation means what it means to Python's configparser, which HPCS reads
// its files with: a line that is indented deeper than the key before it goes on with that key's value; any other
// is a key or a heading of its own, however far it is indented. Lines keep their numbers.
func (f *file) pythonLines() ([]byte, error) {
	var out bytes.Buffer
	level, inKey, inSection := 0, false, false
	for line := range strings.Lines(strings.TrimPrefix(string(f.data), "\ufeff")) {
		text := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeftFunc(line, unicode.IsSpace))
		heading := sectionRE.FindString(text)
		switch {
		case (text == "" || text[0] == '#' || text[0] == ';') && inKey:
			text = "    #" // part of the value for the library, and of no value in the end
		case text == "" || text[0] == '#' || text[0] == ';':
			text = ""
		case inKey && indent > level:
			text = "    " + text
		case heading != "":
			text, level, inKey, inSection = heading, indent, false, true
		case !inSection:
			k := strings.TrimSpace(text[:max(strings.IndexAny(text, "=:"), 0)])
			if k == "" {
				return nil, f.errorf("", "", "is not an INI file: it does not begin with a [section]")
			}
			return nil, f.errorf("", k, "%q stands before the first [section]", k)
		default:
			level, inKey = indent, true
		}
		out.WriteString(text + "\n")
	}
	return out.Bytes(), nil
}

// reference is how configparser's values name another key's, or a percent sign.
var reference = regexp.MustCompile(`%%|%\([^()\n]+\)s`)

// maxInterpolation is how deep values may name others (configparser.MAX_INTERPOLATION_DEPTH).
const maxInterpolation = 10

// interpolated returns a value of a section with the values of the keys of it, or of [DEFAULT], that it names as %(KEY)s,
// and % for %%. A percent sign that stands by itself, which is an error for configparser, stays.
func (r *reading) interpolated(section *ini.Section, value string, depth int) (string, error) {
	var err error
	out := reference.ReplaceAllStringFunc(value, func(ref string) string {
		if ref == "%%" || err != nil {
			return "%"
		}
		name := ref[2 : len(ref)-2]
		for _, k := range append(section.Keys(), r.defaults.Keys()...) {
			if v := clean(k.ValueWithShadows()); strings.EqualFold(k.Name(), name) && len(v) == 1 && depth < maxInterpolation {
				v[0], err = r.interpolated(section, v[0], depth+1)
				return v[0]
			}
		}
		err = r.errorf(section.Name(), "", "[%s] %s names no key of that section or of [DEFAULT] with a value of one line", section.Name(), ref)
		return ref
	})
	return out, err
}
