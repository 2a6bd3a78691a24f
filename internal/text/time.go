package text

import (
	"fmt"
	"time"
)

// Time returns t, in UTC, by a layout of package time's, or as "@" and the seconds since 1970 if
// its year has not four digits: layouts, RFC 3339 and JSON know no others.
func Time(t time.Time, layout string) string {
	t = t.UTC()
	// Where time.Time's own count of seconds wraps, years mean nothing.
	const most = 1 << 40
	if s := t.Unix(); s < -most || s > most || t.Year() < 0 || t.Year() > 9999 {
		if t.Nanosecond() != 0 {
			return fmt.Sprintf("@%d.%09d", s, t.Nanosecond())
		}
		return fmt.Sprintf("@%d", s)
	}
	return t.Format(layout)
}
