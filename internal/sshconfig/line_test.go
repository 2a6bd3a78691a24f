package sshconfig

import (
	"strings"
	"testing"
)

func TestMatchPattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"?", "", false}, {"a*c", "abbc", true}, {"a*c", "abbd", false},
		{"*a*b", "xaxb", true}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"**x", "x", true}, {"x**", "x", true},
		{strings.Repeat("*a", 40), strings.Repeat("a", 5000) + "b", false},
	} {
		if got := MatchPattern(c.pattern, c.s); got != c.want {
			t.Errorf("MatchPattern(%.20q, %.20q) = %v", c.pattern, c.s, got)
		}
	}
}
