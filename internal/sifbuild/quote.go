package sifbuild

import "strings"

// quote returns s as one word of a shell's, which is s again in the shell that Apptainer and SingularityCE have built in
// (mvdan.cc/sh) as in any other: nothing in it is expanded. Of the two usual forms for a single quote only this one
// means the same to both. A carriage return before a newline would be left out by the built-in one,
// wherever it stands, so it is written as an escape: rare enough that a shell which cannot read
// that ($'...' is POSIX since 2024) does not matter.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'"'"'`, "\r", `'$'\r''`).Replace(s) + "'"
}

// quoteAll returns words, quoted and separated by blanks, each with a blank after it.
func quoteAll(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(quote(w) + " ")
	}
	return b.String()
}
