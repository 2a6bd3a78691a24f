package source

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrPattern: a pattern of names to leave out that is none.
var ErrPattern = errors.New("unusable pattern")

// Pattern says what is left out of a tree, in gitignore's way: without a slash
// it matches a name at any depth, with one it is a path from the top of the
// input. A slash at its end confines it to directories. *, ? and [...] match
// within a name, ** any number of directories. What lies below a directory that
// is left out is left out too. There is no negation.
type Pattern struct {
	text  string
	parts []string // of the path, from the top
	dirs  bool     // directories only
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }

// ParsePatterns reads patterns. ErrPattern names the first bad one.
func ParsePatterns(patterns []string) ([]Pattern, error) {
	var out []Pattern
	for _, s := range patterns {
		p, err := parsePattern(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// gitToGo turns gitignore's [!a] into path.Match's [^a].
var gitToGo = strings.NewReplacer(`\\`, `\\`, `\[`, `\[`, `[!`, `[^`)

func parsePattern(s string) (Pattern, error) {
	if strings.HasPrefix(s, "!") {
		return Pattern{}, fmt.Errorf("%w: %q: there is no negation; write \\! for a name that begins with one", ErrPattern, s)
	}
	p := Pattern{text: s, dirs: strings.HasSuffix(s, "/")}
	text := strings.TrimSuffix(s, "/")
	anchored := strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if !anchored {
		p.parts = []string{"**"}
	}
	for _, part := range strings.Split(gitToGo.Replace(text), "/") {
		if _, err := path.Match(part, ""); err != nil || part == "" || part == "." || part == ".." {
			return Pattern{}, fmt.Errorf("%w: %q", ErrPattern, s)
		}
		p.parts = append(p.parts, part)
	}
	return p, nil
}

// Excluded reports whether a pattern matches the entry at rel, a path from the
// top of the input with slashes. What lies above it has been asked before.
func Excluded(patterns []Pattern, rel string, isDir bool) bool {
	if len(patterns) == 0 {
		return false
	}
	names := strings.Split(rel, "/")
	for _, p := range patterns {
		if (isDir || !p.dirs) && matchParts(p.parts, names) {
			return true
		}
	}
	return false
}

// matchParts compares a path with a pattern. at[j] says that the names so far
// match the first j parts: the work is the product of both lengths, whatever
// the pattern.
func matchParts(parts, names []string) bool {
	last := len(parts) - 1
	at := make([]bool, len(parts)+1)
	at[0] = true
	for i := 0; ; i++ {
		for j, part := range parts[:last] { // ** matches no name at all, too, but for the last part
			at[j+1] = at[j+1] || at[j] && part == "**"
		}
		if i == len(names) {
			return at[last+1]
		}
		next := make([]bool, len(at))
		for j, part := range parts {
			switch {
			case !at[j]:
			case part == "**":
				next[j], next[j+1] = true, next[j+1] || j == last
			default:
				ok, _ := path.Match(part, names[i])
				next[j+1] = next[j+1] || ok
			}
		}
		at = next
	}
}
