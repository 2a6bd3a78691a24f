package slurm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrTime is wrapped by errors about time limits.
var ErrTime = errors.New("not a Slurm time limit")

// ParseTime reads a time limit as sbatch --time does: "minutes", "minutes:seconds",
// "hours:minutes:seconds", "days-hours", "days-hours:minutes", "days-hours:minutes:seconds". Parts may
// be larger than their unit, as in HPCS's "00:60:00". UNLIMITED and INFINITE give 0. Errors wrap ErrTime.
func ParseTime(s string) (time.Duration, error) {
	if u := strings.ToUpper(s); u == "UNLIMITED" || u == "INFINITE" {
		return 0, nil
	}
	fail := func() (time.Duration, error) {
		return 0, fmt.Errorf("%w: %q; write minutes, hours:minutes:seconds or days-hours:minutes:seconds", ErrTime, s)
	}
	days, rest, hasDays := strings.Cut(s, "-")
	if !hasDays {
		days, rest = "0", s
	}
	parts := strings.Split(rest, ":")
	if len(parts) > 3 {
		return fail()
	}
	units := []time.Duration{time.Hour, time.Minute, time.Second}
	if !hasDays && len(parts) < 3 {
		units = units[1:] // without days, one number is minutes and two are minutes:seconds
	}
	total, ok := timePart(days, 24*time.Hour)
	for i, p := range parts {
		d, good := timePart(p, units[i])
		total, ok = total+d, ok && good
	}
	if !ok || total <= 0 {
		return fail()
	}
	return total, nil
}

// timePart reads up to six digits.
func timePart(s string, unit time.Duration) (time.Duration, bool) {
	if s == "" || len(s) > 6 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return time.Duration(n) * unit, err == nil && time.Duration(n) <= (1<<62)/unit/4
}

// maxSealTime is how long before its time limit a job is told to seal its results, unless somebody says otherwise.
const maxSealTime = 5 * time.Minute

// SealTime returns how long before its limit (0 for none, or an unknown one) a job is told to seal its results, where nobody
// has said it: a quarter of the limit, which Slurm takes in whole minutes, but not more than five minutes.
func SealTime(limit time.Duration) time.Duration {
	minutes := (limit + time.Minute - 1) / time.Minute
	if limit <= 0 || minutes*time.Minute/4 > maxSealTime {
		return maxSealTime
	}
	return minutes * time.Minute / 4
}
