package text

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes: a plain number, or one with a unit: 512K, 256M, 4G, 2T, also as 256MiB. Zero and
// what an int64 cannot hold are refused.
func ParseSize(s string) (int64, error) {
	digits, unit := strings.TrimSuffix(s, "iB"), int64(1)
	if n := len(digits); n > 0 {
		if at := strings.IndexByte("KMGT", digits[n-1]); at >= 0 {
			digits, unit = digits[:n-1], 1<<(10*(at+1))
		} else if digits != s {
			digits = ""
		}
	}
	v, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || v == 0 || v > uint64(math.MaxInt64/unit) {
		return 0, fmt.Errorf("%.40q is not a size such as 512M, 4G or 1000000 (bytes)", s)
	}
	return int64(v) * unit, nil
}
