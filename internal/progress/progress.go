// Package progress lets packages report how far something that moves bytes has
// come, without knowing who looks.
package progress

// Bar shows one thing's progress. Its methods may be called from several
// goroutines.
type Bar interface {
	// Update reports that done of total bytes are done; total is 0 while it is
	// unknown, or as before.
	Update(done, total int64)
	// End reports the end; what failed is told by an error elsewhere.
	End(ok bool)
}

// Starter begins to report on label: of total bytes (0 if unknown) done were done
// before, which is no part of the rate. A nil Starter reports nothing.
type Starter func(label string, done, total int64) Bar

// Start calls s.
func (s Starter) Start(label string, done, total int64) Bar {
	if s == nil {
		return silent{}
	}
	return s(label, done, total)
}

type silent struct{}

func (silent) Update(int64, int64) {}
func (silent) End(bool)            {}
