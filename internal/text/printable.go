package text

import (
	"fmt"
	"strings"
	"unicode"
)

// Printable escapes everything in s that could steer a terminal, except line ends, which it indents.
func Printable(s string) string {
	s = strings.TrimRight(s, "\n")
	if !strings.ContainsFunc(s, func(r rune) bool { return r == '\n' || r == '\t' || Steers(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("\n  ")
		case r == '\t':
			b.WriteByte(' ')
		case Steers(r):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Steers reports whether a terminal may take r for more than a character: controls, directions of writing, and what is no
// valid UTF-8.
func Steers(r rune) bool {
	return r < 0x20 || (r >= 0x7f && r < 0xa0) || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r)
}
