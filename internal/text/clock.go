package text

import "time"

// AheadOf words how far one clock is ahead of another, or behind it.
func AheadOf(d time.Duration) string {
	if d < 0 {
		return (-d).Round(time.Second).String() + " behind"
	}
	return d.Round(time.Second).String() + " ahead of"
}
