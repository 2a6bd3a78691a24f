package ui

import "strings"

// Nearest returns the candidate that is spelt most like word, else the only one that begins with it or has it as a
// part, or "" if none is near.
func Nearest(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" || len(word) < 3 {
		return near
	}
	for _, fits := range []func(s, part string) bool{strings.HasPrefix, strings.Contains} {
		var found []string
		for _, c := range candidates {
			if fits(plain(c), plain(word)) {
				found = append(found, c)
			}
		}
		if len(found) == 1 {
			return found[0]
		}
	}
	return ""
}

// plain leaves out what people forget in names.
func plain(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }

func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance || (d == bestDistance && best != "" && c < best) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's: how many bytes to insert, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
