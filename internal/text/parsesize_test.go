package text

import "testing"

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{
		"1": 1, "1000000": 1000000, "512K": 512 << 10, "256M": 256 << 20, "4G": 4 << 30, "2T": 2 << 40, "256MiB": 256 << 20,
		"8388607T": 8388607 << 40,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "0G", "M", "MiB", "-1M", "+1M", "1.5G", "1 G",
		"1g", "1MB", "1iB", "8388608T", "9223372036854775808", "1GG"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %v", s, got)
		}
	}
}
