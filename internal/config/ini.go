package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/ini.v1"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// maxFileSize bounds what is read: a real configuration is a few kilobytes.
const maxFileSize = 1 << 20

// key is one key that a section may have.
type key struct {
	name     string
	repeated bool // may stand several times or over several lines
	narrows  bool // says whom alone to believe: an empty value, or the key in a wrong place, is an error
	set      func(values []string) error
}

// schema maps a section's name to its keys. A section name that ends in a space, such as "cluster ",
// takes a name of its own: [cluster NAME].
type schema struct {
	sections map[string][]key
	named    map[string]func(name string) []key
	// others takes the keys of a section that are not among its own, in lower
	// case: those of a section that belongs to one of several packages.
	others map[string]map[string]string
	// othersOf does so for sections with a name of their own.
	othersOf map[string]func(name string) map[string]string
	// hpcs makes the file one that HPCS's own programs may read, too: [DEFAULT] has what sections do not say, and
	// what only they can mean is passed over with a warning, where hpcsStyle says that it is of theirs.
	hpcs bool
}

// file is one configuration file while it is being read.
type file struct {
	path string
	data []byte
	// warnings are sentences about what was passed over.
	warnings []string
}

func readFile(path string) (*file, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fail(Error{File: path, What: err.Error()})
	}
	f, err := trusted.Open(abs, trusted.Public)
	switch {
	case errors.Is(err, fsx.ErrNotRegular):
		return nil, fail(Error{File: path, What: "is not a regular file"})
	case errors.Is(err, trusted.ErrUnsafe):
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	case err != nil:
		return nil, fail(Error{File: path, What: "cannot be read: " + rootCause(err),
			Next: "write it after the model of the .conf.example files, or name another with --config"})
	}
	defer f.Close()
	data, err := fsx.ReadAll(f, maxFileSize)
	if err != nil {
		return nil, fail(Error{File: path, What: "cannot be read: " + rootCause(err)})
	}
	return &file{path: abs, data: data}, nil
}

func rootCause(err error) string {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// apply parses the file and hands every value to the schema.
func (f *file) apply(s schema) error {
	if bytes.IndexByte(f.data, 0) >= 0 {
		return f.errorf("", "", "is no text, but binary data")
	}
	lines, err := f.pythonLines()
	if err != nil {
		return err
	}
	parsed, err := ini.LoadSources(ini.LoadOptions{
		IgnoreInlineComment:        true, // as configparser: `module load x # y` is one value
		IgnoreContinuation:         true,
		AllowShadows:               true,
		AllowDuplicateShadowValues: true,
		AllowPythonMultilineValues: true,
		KeyValueDelimiters:         "=:",
		ChildSectionDelimiter:      "\x00", // no inheritance between sections
	}, lines)
	if err != nil {
		return f.errorf("", "", "is not an INI file: %.200v", err)
	}
	defaults := parsed.Section(ini.DefaultSection)
	if len(defaults.Keys()) > 0 && !s.hpcs {
		return f.errorf(ini.DefaultSection, "", "unknown section [%s]", ini.DefaultSection)
	}
	r := reading{file: f, schema: s, lenient: s.hpcs && hpcsStyle(parsed), defaults: defaults}
	for _, section := range parsed.Sections() {
		if section.Name() == ini.DefaultSection {
			continue
		}
		if err := r.section(section); err != nil {
			return err
		}
	}
	return r.unusedDefaults()
}

// keysOf returns the keys of the section called name, and what takes others.
func (s schema) keysOf(name string) ([]key, map[string]string, error) {
	if keys, ok := s.sections[name]; ok {
		return keys, s.others[name], nil
	}
	kind, rest, _ := strings.Cut(name, " ")
	own := strings.Trim(strings.TrimSpace(rest), `"'`)
	fn, named := s.named[kind]
	others, free := s.othersOf[kind]
	switch {
	case (named || free) && own == "":
		return nil, nil, fmt.Errorf("[%s] needs a name: [%s NAME]", kind, kind)
	case named:
		return fn(own), nil, nil
	case free:
		return nil, others(own), nil
	}
	return nil, nil, fmt.Errorf("unknown section [%s]%s", name, suggest("; did you mean [%s]?", name, s.names()))
}

func find(keys []key, name string) (key, bool) {
	for _, k := range keys {
		if strings.EqualFold(k.name, name) {
			return k, true
		}
	}
	return key{}, false
}

// clean splits values that go on over several lines and drops empty lines and comments among them.
func clean(raw []string) []string {
	var out []string
	for _, value := range raw {
		for _, line := range strings.Split(value, "\n") {
			line = unquote(strings.TrimSpace(line))
			if line != "" && line[0] != '#' && line[0] != ';' {
				out = append(out, line)
			}
		}
	}
	return out
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && strings.IndexByte(s[1:], s[0]) == len(s)-2 {
		return s[1 : len(s)-1]
	}
	return s
}

func (f *file) errorf(section, key, format string, args ...any) error {
	return fail(Error{File: f.path, Line: f.lineOf(section, key), What: fmt.Sprintf(format, args...)})
}

// lineOf returns the line of a key, or of a section's head; 0 if there is none. The INI library does
// not keep positions.
func (f *file) lineOf(section, key string) int {
	current := ""
	for i, line := range strings.Split(string(f.data), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			current = strings.TrimSpace(line[1 : len(line)-1])
			if key == "" && section != "" && current == section {
				return i + 1
			}
			continue
		}
		if end := strings.IndexAny(line, "=:"); end > 0 && current == section && key != "" &&
			strings.EqualFold(strings.TrimSpace(line[:end]), key) {
			return i + 1
		}
	}
	return 0
}

// resolve returns a path from the file as an absolute one.
func (f *file) resolve(p string) (string, error) {
	if strings.ContainsAny(p, "\x00\n") {
		return "", fmt.Errorf("%q is not a path", p)
	}
	for _, home := range []string{"~", "$HOME", "${HOME}"} {
		rest, ok := strings.CutPrefix(p, home)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		dir, err := userdirs.Home()
		if err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
		return userdirs.SSHPath(filepath.Join(dir, rest)), nil
	}
	if strings.HasPrefix(p, "~") {
		return "", fmt.Errorf("%s: other users' home directories are not looked up; write the path in full", p)
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(filepath.Dir(f.path), p)
	}
	return userdirs.SSHPath(filepath.Clean(p)), nil
}
