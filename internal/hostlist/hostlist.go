// Package hostlist reads Slurm's host lists, such as "cn[1-3,07],x2", and says
// which names they stand for. It never writes those names down: a short list can
// stand for billions.
//
//	cn[1-3,07]-ib,x2
//	│ │       │   └ a pattern without ranges
//	│ │       └──── literal
//	│ └──────────── ranges: 1 to 3 in one digit or more, 7 in two digits or more
//	└────────────── literal
package hostlist

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrSyntax is wrapped by errors about host lists.
var ErrSyntax = errors.New("not a host list")

// Bounds of one name in a list.
const (
	maxName     = 255 // bytes
	maxDigits   = 18  // of a number in a range, so that it fits 64 bits
	maxBrackets = 3
)

// List is a parsed host list; the zero value holds no name.
type List struct{ patterns []pattern }

// pattern is what stands between two commas: its elements in turn.
type pattern []element

// element is a literal, or the ranges of one pair of brackets.
type element struct {
	literal string
	ranges  []span // nil for a literal
}

// span is a range of numbers, which are written in width digits at least,
// as Slurm does by the digits of a range's first one.
type span struct {
	low, high uint64
	width     int
}

// Parse reads host lists, which count as one, of most parts in all: a part is a name
// or range between two commas, inside brackets or outside. It refuses what has more,
// anything but names of letters, digits, dots, dashes and underscores with up to three
// brackets, and ranges that run backwards. Errors wrap ErrSyntax.
func Parse(most int, lists ...string) (List, error) {
	var l List
	for _, list := range lists {
		for rest, more := list, true; more; {
			var item string
			var err error
			if item, rest, more, err = cut(rest); err != nil {
				return List{}, err
			}
			p, err := parsePattern(item, &most)
			if err != nil {
				return List{}, fmt.Errorf("%w: %.80q: %w", ErrSyntax, item, err)
			}
			l.patterns = append(l.patterns, p)
		}
	}
	return l, nil
}

// cut returns what stands before and after the first comma outside brackets, and
// whether there is one.
func cut(list string) (item, rest string, more bool, err error) {
	inside := false
	for i := range len(list) {
		switch c := list[i]; {
		case c == ',' && !inside:
			return list[:i], list[i+1:], true, nil
		case c == '[' && !inside, c == ']' && inside:
			inside = !inside
		case c == '[' || c == ']':
			return "", "", false, fmt.Errorf("%w: %.80q has brackets that do not match", ErrSyntax, list)
		}
	}
	if inside {
		return "", "", false, fmt.Errorf("%w: %.80q has a bracket that does not close", ErrSyntax, list)
	}
	return list, "", false, nil
}

// parsePattern reads one comma-free item such as "r[1-2]n[01-04]", whose brackets
// match, and takes its parts off left.
func parsePattern(item string, left *int) (p pattern, err error) {
	if item == "" {
		return nil, errors.New("a name is empty")
	}
	if item[0] == '-' || item[0] == '.' {
		return nil, errors.New("it begins with a dash or dot")
	}
	brackets, parts, literals := 0, 0, 0
	for item != "" {
		var e element
		if item[0] != '[' {
			if e.literal, item, err = cutLiteral(item); err != nil {
				return nil, err
			}
			literals += len(e.literal)
		} else {
			end := strings.IndexByte(item, ']')
			if e.ranges, err = parseRanges(item[1:end], *left); err != nil {
				return nil, err
			}
			item, brackets, parts = item[end+1:], brackets+1, parts+len(e.ranges)
		}
		p = append(p, e)
	}
	if *left -= max(parts, 1); *left < 0 {
		return nil, errTooMany
	}
	if brackets > maxBrackets || literals > maxName {
		return nil, fmt.Errorf("it has more than %d brackets or %d bytes", maxBrackets, maxName)
	}
	return p, nil
}

var errTooMany = errors.New("too many names and ranges")

// cutLiteral cuts s before its first bracket.
func cutLiteral(s string) (literal, rest string, err error) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '[':
			return s[:i], s[i:], nil
		case !isAlnum(c) && c != '-' && c != '.' && c != '_':
			return "", "", fmt.Errorf("%q cannot be in a host name", c)
		}
	}
	return s, "", nil
}

func isAlnum(c byte) bool {
	return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// parseRanges reads "1-3,07".
func parseRanges(s string, most int) ([]span, error) {
	if strings.Count(s, ",") >= most {
		return nil, errTooMany
	}
	var out []span
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		low, err := number(first)
		if err != nil {
			return nil, err
		}
		high, err := number(last)
		if err != nil {
			return nil, err
		}
		if high < low {
			return nil, fmt.Errorf("range %s runs backwards", part)
		}
		out = append(out, span{low, high, len(first)})
	}
	return out, nil
}

func number(s string) (uint64, error) {
	if len(s) == 0 || len(s) > maxDigits || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return strconv.ParseUint(s, 10, 64)
}
