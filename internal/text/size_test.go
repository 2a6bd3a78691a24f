package text

import (
	"testing"
	"time"
)

func TestSizeAndSpan(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB", 1 << 62: "4.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0 s", 400 * time.Millisecond: "0.4 s", 12 * time.Second: "12 s",
		185 * time.Second: "3 min 05 s", 2*time.Hour + 10*time.Minute: "2 h 10 min"} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
}
