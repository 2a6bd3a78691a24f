package fusefs

import "slices"

// recent is a short list, of which what was put there last comes first.
type recent[T any] []T

// take removes the first that is looked for, and returns it.
func (r *recent[T]) take(is func(T) bool) (t T, found bool) {
	i := slices.IndexFunc(*r, is)
	if i < 0 {
		return t, false
	}
	t = (*r)[i]
	*r = slices.Delete(*r, i, i+1)
	return t, true
}

// put adds t and keeps so many.
func (r *recent[T]) put(t T, most int) {
	*r = slices.Insert(*r, 0, t)
	*r = (*r)[:min(len(*r), most)]
}
