package jobdir

import (
	"slices"
	"strings"
	"testing"
)

func TestLeft(t *testing.T) {
	t.Parallel()
	want := []LeftEntry{{"a/b", "permission denied"}, {"line\nend \xff \"q\"", "it has\ntwo lines"}, {"", "x"}}
	var list []byte
	for _, e := range want {
		list = AppendLeft(list, e)
	}
	want[1].Reason = "it has two lines"
	if got, err := ParseLeft(string(list)); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"x", `"a" b`, "\"a\"b\n", "'ab' c\n", "\n", strings.Repeat("\"a\" b\n", MaxLeft)} {
		if got, err := ParseLeft(bad); err == nil {
			t.Errorf("%.20q: %d entries", bad, len(got))
		}
	}
	long := LeftEntry{strings.Repeat("x", MaxLeft/2), ""}
	if list = AppendLeft(AppendLeft(nil, long), long); len(list) > MaxLeft || len(list) < MaxLeft/2 {
		t.Errorf("%d bytes", len(list))
	}
}

func FuzzParseLeft(f *testing.F) {
	f.Add("\"a/b\" permission denied\n")
	f.Add("`a` b\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseLeft(text)
		if err != nil {
			return
		}
		var list []byte
		for _, e := range all {
			list = AppendLeft(list, e)
		}
		if again, err := ParseLeft(string(list)); len(list) < MaxLeft-1000 && (err != nil || !slices.Equal(again, all)) {
			t.Errorf("%q became %q, %v", all, again, err)
		}
	})
}
