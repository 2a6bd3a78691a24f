package text

import "testing"

func TestFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{
		{"name", 4, "name"}, {"names", 4, "nam…"}, {"ゲノム", 6, "ゲノム"}, {"ゲノム", 5, "ゲノ…"}, {"ゲノム", 4, "ゲ…"},
		{"e\u0301te\u0301", 3, "e\u0301te\u0301"}, {"name", 1, "…"}, {"name", 0, ""}, {"name", -3, ""}, {"", 0, ""},
	} {
		if got := Fit(c.s, c.n); got != c.want {
			t.Errorf("Fit(%q, %d) = %q, want %q", c.s, c.n, got, c.want)
		}
	}
}
