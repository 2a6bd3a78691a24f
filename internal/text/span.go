package text

import (
	"fmt"
	"strconv"
	"time"
)

// ParseSpan reads a length of time: seconds as a plain number, or a number
// with a unit: 90d, 12h, 5m, 300s. Zero and more than ten years are refused.
func ParseSpan(s string) (time.Duration, error) {
	unit, digits := time.Second, s
	if n := len(s); n > 0 {
		if u, ok := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}[s[n-1]]; ok {
			unit, digits = u, s[:n-1]
		}
	}
	v, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || v == 0 || time.Duration(v) > maxSpan/unit {
		return 0, fmt.Errorf("%.40q is not a length of time such as 90d, 12h, 5m or 300 (seconds)", s)
	}
	return time.Duration(v) * unit, nil
}

const maxSpan = 10 * 366 * 24 * time.Hour
