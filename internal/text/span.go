package text

import (
	"fmt"
	"strconv"
	"time"
)

// ParseSpan reads a length of time: a number with a unit, as 90d, 12h, 5m or 300s. A
// number alone is refused, since people mean days by it here and seconds there; so are
// zero and more than ten years.
func ParseSpan(s string) (time.Duration, error) {
	n := len(s)
	if n > 0 {
		unit := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}[s[n-1]]
		if v, err := strconv.ParseUint(s[:n-1], 10, 32); unit > 0 && err == nil && v > 0 && time.Duration(v) <= maxSpan/unit {
			return time.Duration(v) * unit, nil
		}
	}
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return 0, fmt.Errorf("%.40q has no unit: it is one of %.40[1]sd (days), %.40[1]sh (hours), %.40[1]sm (minutes), %.40[1]ss (seconds)", s)
	}
	return 0, fmt.Errorf("%.40q is not a length of time such as 90d, 12h, 5m or 300s, ten years at most", s)
}

// ParseSeconds is ParseSpan for what is usually given in seconds: a number alone is one of seconds.
func ParseSeconds(s string) (time.Duration, error) {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		s += "s"
	}
	return ParseSpan(s)
}

const maxSpan = 10 * 366 * 24 * time.Hour
