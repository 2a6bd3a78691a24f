package sshconfig

import (
	"errors"
	"strings"
)

// Blanks of a configuration, as OpenSSH's readconf.c has them.
const blanks = " \t\r\n"

// cutWord cuts the first word off s, and the blanks and at most one = that follow it (strdelim in misc.c).
// A word may stand in double quotes.
func cutWord(s string) (word, rest string, err error) {
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		word, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", errQuotes
		}
		return word, strings.TrimLeft(rest, blanks), nil
	}
	end := strings.IndexAny(s, blanks+"=")
	if end < 0 {
		return s, "", nil
	}
	rest = strings.TrimLeft(s[end:], blanks)
	if after, ok := strings.CutPrefix(rest, "="); ok {
		rest = strings.TrimLeft(after, blanks)
	}
	return s[:end], rest, nil
}

var errQuotes = errors.New("invalid quotes")

// splitWords splits arguments at blanks, up to a word that begins with # (argv_split in misc.c): words or
// their parts may stand in single or double quotes, and a backslash keeps a quote, a backslash or, outside
// quotes, a space.
func splitWords(s string) (words []string, err error) {
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' || s[i] == '\t' {
			continue
		}
		if s[i] == '#' {
			break
		}
		var word []byte
		var quote byte
		for ; i < len(s); i++ {
			c := s[i]
			next := byte(0)
			if i+1 < len(s) {
				next = s[i+1]
			}
			if c == '\\' && (next == '\'' || next == '"' || next == '\\' || quote == 0 && next == ' ') {
				word = append(word, next)
				i++
				continue
			}
			if quote == 0 && (c == ' ' || c == '\t') {
				break
			}
			switch {
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case quote != 0 && c == quote:
				quote = 0
			default:
				word = append(word, c)
			}
		}
		if quote != 0 {
			return nil, errQuotes
		}
		words = append(words, string(word))
	}
	return words, nil
}

// splitLine takes a line apart: its keyword in lower case, "" for a comment or an empty line, and what follows.
func splitLine(line string) (keyword, rest string, err error) {
	line = strings.TrimRight(line, blanks+"\f")
	line = strings.TrimLeft(line, blanks)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	keyword, rest, err = cutWord(line)
	switch {
	case err != nil:
		return "", "", err
	case strings.ContainsFunc(keyword, func(r rune) bool { return !isWord(r) }):
		return "", "", errors.New("it is no line of ssh_config")
	case rest == "":
		return "", "", errors.New("its keyword has no argument")
	}
	return strings.ToLower(keyword), rest, nil
}

func isWord(r rune) bool { return r < 0x80 && (r|0x20 >= 'a' && r|0x20 <= 'z' || r >= '0' && r <= '9') }

// MatchPattern reports whether s is what a pattern of * (any run of characters) and ? (any one) stands for, in time
// proportional to the product of the lengths.
func MatchPattern(pattern, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, mark = i, j
			i++
		case i < len(pattern) && (pattern[i] == '?' || pattern[i] == s[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[i:], "*") == ""
}

// MatchList is OpenSSH's match_pattern_list: one that begins with ! and matches decides, and
// without any other match the answer is no.
func MatchList(patterns []string, s string) bool {
	found := false
	for _, p := range patterns {
		positive, negated := strings.CutPrefix(p, "!")
		if MatchPattern(positive, s) {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}
