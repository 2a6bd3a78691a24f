package text

import (
	"strings"
	"unicode"
)

// wide are the ranges of characters that take two columns of a terminal: those of East Asia that UAX #11 calls wide or
// fullwidth, as wcwidth has them, and the blocks of emoji.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x2e80, 0x303e, 1}, {0x3041, 0xa4cf, 1}, {0xa960, 0xa97f, 1}, {0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x16fe0, 0x1b2ff, 1}, {0x1f300, 0x1f64f, 1}, {0x1f680, 0x1f6ff, 1}, {0x1f900, 0x1f9ff, 1}, {0x20000, 0x3fffd, 1}},
}

func columns(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// Width returns how many columns of a terminal a printable line takes.
func Width(s string) (n int) {
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// Fit returns s in at most n columns: of what is longer, the end is left out.
func Fit(s string, n int) string {
	if Width(s) <= n {
		return s
	}
	var b strings.Builder
	room := n - 1 // a column is for the dots
	for _, r := range s {
		if room -= columns(r); room < 0 {
			break
		}
		b.WriteRune(r)
	}
	if n < 1 {
		return ""
	}
	return b.String() + "…"
}
