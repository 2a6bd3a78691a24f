// Package hostlist reads Slurm's host lists, such as "cn[1-3,07],x2".
package hostlist

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Max bounds how many names a host list may stand for.
const Max = 65536

// ErrSyntax is wrapped by errors about host lists.
var ErrSyntax = errors.New("not a host list")

// Expand returns the names that a Slurm host list such as "cn[1-3,07],x2" stands for, in its
// order. One name may have several bracketed parts. It refuses anything but names of letters, digits,
// dots, dashes and underscores, and lists of more than Max names. Errors wrap ErrSyntax.
func Expand(list string) ([]string, error) {
	items, err := split(list)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, item := range items {
		names, err := expandItem(item, Max-len(out))
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrSyntax, item, err)
		}
		out = append(out, names...)
	}
	return out, nil
}

// split splits at commas outside brackets.
func split(list string) ([]string, error) {
	if len(list) > 1<<20 {
		return nil, fmt.Errorf("%w: longer than a megabyte", ErrSyntax)
	}
	var items []string
	start, inside := 0, false
	for i := 0; i <= len(list); i++ {
		switch {
		case i == len(list) || (list[i] == ',' && !inside):
			if i == start {
				return nil, fmt.Errorf("%w: %q has an empty name", ErrSyntax, list)
			}
			items = append(items, list[start:i])
			start = i + 1
		case list[i] == '[' && !inside:
			inside = true
		case list[i] == ']' && inside:
			inside = false
		case list[i] == '[' || list[i] == ']':
			return nil, fmt.Errorf("%w: %q has brackets that do not match", ErrSyntax, list)
		}
	}
	if inside {
		return nil, fmt.Errorf("%w: %q has a bracket that does not close", ErrSyntax, list)
	}
	return items, nil
}

// expandItem expands one comma-free item such as "r[1-2]n[01-04]" to at most limit names.
func expandItem(item string, limit int) ([]string, error) {
	names := []string{""}
	for item != "" {
		open := strings.IndexByte(item, '[')
		if open < 0 {
			open = len(item)
		}
		if err := checkNamePart(item[:open]); err != nil {
			return nil, err
		}
		for i := range names {
			names[i] += item[:open]
		}
		if item = item[open:]; item == "" {
			break
		}
		end := strings.IndexByte(item, ']')
		numbers, err := expandRanges(item[1:end], limit)
		if err != nil {
			return nil, err
		}
		if len(names)*len(numbers) > limit {
			return nil, fmt.Errorf("more than %d names", Max)
		}
		names = product(names, numbers)
		item = item[end+1:]
	}
	if len(names) > limit {
		return nil, fmt.Errorf("more than %d names", Max)
	}
	if names[0][0] == '-' || names[0][0] == '.' {
		return nil, errors.New("begins with a dash or dot")
	}
	return names, nil
}

func product(prefixes, suffixes []string) []string {
	out := make([]string, 0, len(prefixes)*len(suffixes))
	for _, p := range prefixes {
		for _, s := range suffixes {
			out = append(out, p+s)
		}
	}
	return out
}

func checkNamePart(s string) error {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("%q cannot be in a host name", c)
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// expandRanges expands "1-3,07"; numbers keep the leading zeros of a range's first one.
func expandRanges(s string, limit int) ([]string, error) {
	var out []string
	for _, part := range strings.Split(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		low, err := rangeNumber(first)
		if err != nil {
			return nil, err
		}
		high, err := rangeNumber(last)
		if err != nil {
			return nil, err
		}
		if high < low || high-low >= uint64(limit) || len(out)+int(high-low) >= limit {
			return nil, fmt.Errorf("range %s runs backwards or is too long", part)
		}
		for n := low; n <= high; n++ {
			out = append(out, fmt.Sprintf("%0*d", len(first), n))
		}
	}
	return out, nil
}

func rangeNumber(s string) (uint64, error) {
	if len(s) == 0 || len(s) > 18 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return strconv.ParseUint(s, 10, 64)
}
