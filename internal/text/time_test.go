package text

import (
	"math"
	"testing"
	"time"
)

func TestTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sec, nsec int64
		want      string
	}{
		{0, 0, "1970-01-01T00:00:00Z"},
		{-1, 5e8, "1969-12-31T23:59:59.5Z"},
		{9223372037, 0, "2262-04-11T23:47:17Z"},
		{253402300799, 0, "9999-12-31T23:59:59Z"},
		{253402300800, 0, "@253402300800"},
		{-62167219200, 0, "0000-01-01T00:00:00Z"},
		{-62167219201, 1, "@-62167219201.000000001"},
		{math.MaxInt64, 0, "@9223372036854775807"},
		{math.MinInt64, 0, "@-9223372036854775808"},
	} {
		if got := Time(time.Unix(c.sec, c.nsec), time.RFC3339Nano); got != c.want {
			t.Errorf("%d: %q, want %q", c.sec, got, c.want)
		}
	}
}
