package hostlist

import "strings"

// Contains reports whether name is one of those that the list stands for.
func (l List) Contains(name string) bool {
	in, _ := l.Look(name)
	return in
}

// Look does the same, and returns the steps that it took: one for a literal, eight for a range
// at a place of the name. A step takes 30 ns at most.
func (l List) Look(name string) (in bool, steps int) {
	if name == "" || len(name) > maxName {
		return false, 1
	}
	for _, p := range l.patterns {
		if p.matches(name, &steps) {
			return true, steps
		}
	}
	return false, steps
}

// matches walks the name. Numbers of two brackets may meet ("[1-2][10-20]", "a1[2-3]"),
// so where one ends is not always clear: at holds every place of the name up to
// which the elements so far can reach. After n brackets these are 17n+1 at most.
func (p pattern) matches(name string, steps *int) bool {
	at := []int{0}
	for _, e := range p {
		*steps += len(at) * max(1, 8*len(e.ranges))
		if at = e.after(name, at); len(at) == 0 {
			return false
		}
	}
	return at[len(at)-1] == len(name)
}

// after returns the places up to which e can reach from places, of which there are some, in order.
func (e element) after(name string, places []int) (out []int) {
	if e.ranges == nil {
		for _, i := range places {
			if strings.HasPrefix(name[i:], e.literal) {
				out = append(out, i+len(e.literal))
			}
		}
		return out
	}
	var reached [maxName + 1]bool
	for _, i := range places {
		e.number(name, i, &reached)
	}
	for i := places[0] + 1; i <= min(places[len(places)-1]+maxDigits, len(name)); i++ {
		if reached[i] {
			out = append(out, i)
		}
	}
	return out
}

// number marks where numbers of e's ranges end that begin at name[from].
func (e element) number(name string, from int, reached *[maxName + 1]bool) {
	var n uint64
	for i := from; i < len(name) && i < from+maxDigits && isDigit(name[i]); i++ {
		n = 10*n + uint64(name[i]-'0')
		if reached[i+1] {
			continue
		}
		for _, s := range e.ranges {
			if s.holds(n, i+1-from, name[from]) {
				reached[i+1] = true
				break
			}
		}
	}
}

// holds reports whether the span has a number that is written in so many digits,
// beginning with first.
func (s span) holds(n uint64, digits int, first byte) bool {
	return n >= s.low && n <= s.high && (digits == s.width || digits > s.width && first != '0')
}
