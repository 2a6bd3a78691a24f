package config

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
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
