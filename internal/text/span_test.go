package text

import (
	"strings"
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{
		"90d": 90 * 24 * time.Hour, "12h": 12 * time.Hour, "5m": 5 * time.Minute, "300s": 300 * time.Second, "3660d": maxSpan,
	} {
		if got, err := ParseSpan(s); err != nil || got != want {
			t.Errorf("ParseSpan(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "0", "90", "14", "0d", "-5m", "+5m", "1.5h", "5 m", "5M", "1h30m", "4294967296", "3661d"} {
		if got, err := ParseSpan(s); err == nil {
			t.Errorf("ParseSpan(%q) = %v", s, got)
		}
	}
}

// TestBareNumbers: one is seconds where that is usual; elsewhere it is refused, and the message says how to write it.
func TestBareNumbers(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{"300": 300 * time.Second, "5m": 5 * time.Minute, "1": time.Second} {
		if got, err := ParseSeconds(s); err != nil || got != want {
			t.Errorf("ParseSeconds(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "-300", "1.5", "4294967296"} {
		if got, err := ParseSeconds(s); err == nil {
			t.Errorf("ParseSeconds(%q) = %v", s, got)
		}
	}
	_, err := ParseSpan("90")
	if err == nil || !strings.Contains(err.Error(), "90d (days), 90h (hours), 90m (minutes), 90s (seconds)") {
		t.Errorf("ParseSpan(90): %v", err)
	}
}
