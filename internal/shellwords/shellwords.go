// Package shellwords splits command lines into words and joins words into
// command lines, as a POSIX shell reads them.
package shellwords

import (
	"errors"
	"fmt"
	"strings"
)

// maxUnwrap bounds how many layers of quotes SplitArgs and Unquote take off.
const maxUnwrap = 8

// Unquote takes off quotes that surround all of s, in any number of layers: HPCS's compose files hand
// over values such as "00:60:00" with literal quotes around them.
func Unquote(s string) string {
	for range maxUnwrap {
		t := strings.TrimSpace(s)
		inner, ok := unwrap(t)
		if !ok {
			if t != s && t == strings.Trim(t, `"'`) {
				return t
			}
			return s
		}
		s = inner
	}
	return s
}

// unwrap takes one layer of quotes off a string that they surround wholly: "...", '...' or \"...\".
func unwrap(t string) (string, bool) {
	if len(t) >= 4 && strings.HasPrefix(t, `\"`) && strings.HasSuffix(t, `\"`) {
		return t[2 : len(t)-2], true
	}
	if len(t) < 2 || (t[0] != '"' && t[0] != '\'') {
		return "", false
	}
	words, quoted, err := split(t)
	if err != nil || len(words) != 1 || !quoted {
		return "", false
	}
	return words[0], true
}

// SplitArgs splits a command line into words as a POSIX shell does: blanks separate, quotes and
// backslashes protect. Nothing is expanded: $, `, *, ~ and # stand for themselves.
//
// HPCS's users wrap the whole line in one or more layers of double quotes, since HPCS pasted it into
// a script. A line that is wholly one double-quoted word is therefore unwrapped and split again;
// a word of several words that is meant is written in single quotes.
func SplitArgs(line string) ([]string, error) {
	if strings.ContainsRune(line, 0) {
		return nil, errors.New("arguments contain a zero byte")
	}
	words, _, err := split(line)
	for range maxUnwrap {
		t := strings.TrimSpace(line)
		if t == "" || (t[0] != '"' && t[0] != '\\') {
			break
		}
		inner, ok := unwrap(t)
		if !ok {
			break
		}
		innerWords, _, innerErr := split(inner)
		if innerErr != nil && err == nil {
			break // "it's" is a word, not the beginning of a quotation
		}
		line, words, err = inner, innerWords, innerErr
	}
	if err != nil {
		return nil, fmt.Errorf("cannot split arguments into words: %w", err)
	}
	return words, nil
}

// split is SplitArgs without the unwrapping; quoted tells whether line, blanks aside, is one quoted
// string from its first byte to its last.
func split(line string) (words []string, quoted bool, err error) {
	const blanks = " \t\r\n"
	var word strings.Builder
	inWord, start := false, len(line)-len(strings.TrimLeft(line, blanks))
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case strings.IndexByte(blanks, c) >= 0:
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case c == '\\':
			if i++; i >= len(line) {
				return nil, false, errors.New("a backslash at the end escapes nothing")
			}
			inWord = true
			word.WriteByte(line[i])
		case c == '"' || c == '\'':
			begin := i
			if i, err = quotation(line, i, &word); err != nil {
				return nil, false, err
			}
			inWord = true
			quoted = begin == start && strings.TrimRight(line[i+1:], blanks) == ""
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, quoted, nil
}

// quotation copies the quoted string that begins at line[i] and gives the index of its closing quote.
// Inside double quotes a backslash protects only $ ` " \ and the end of the line (POSIX 2.2.3).
func quotation(line string, i int, word *strings.Builder) (int, error) {
	quote := line[i]
	for i++; i < len(line); i++ {
		c := line[i]
		if c == quote {
			return i, nil
		}
		if quote == '"' && c == '\\' && i+1 < len(line) && strings.IndexByte("$`\"\\\n", line[i+1]) >= 0 {
			if i++; line[i] == '\n' {
				continue
			}
			c = line[i]
		}
		word.WriteByte(c)
	}
	return 0, fmt.Errorf("a quotation that begins with %c does not end", quote)
}

// QuoteArgs joins words into one line that any POSIX shell splits into the same words. What is not
// made of plain letters, digits and a few signs stands in single quotes.
func QuoteArgs(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if w != "" && strings.Trim(w, plain) == "" && w[0] != '=' {
			quoted[i] = w
		} else {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// plain needs no quotes anywhere in a word.
const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=,@%+-"
