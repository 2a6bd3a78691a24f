package fusefs

import "slices"

// recent is a short list in which what was put last comes first.
type recent[T any] []T

// take removes the first element that satisfies is, and returns it.
func (r *recent[T]) take(is func(T) bool) (t T, found bool) {
	i := slices.IndexFunc(*r, is)
	if i < 0 {
		return t, false
	}
	t = (*r)[i]
	*r = slices.Delete(*r, i, i+1)
	return t, true
}

// put adds t and keeps as many as most.
func (r *recent[T]) put(t T, most int) {
	*r = slices.Insert(*r, 0, t)
	*r = (*r)[:min(len(*r), most)]
}
