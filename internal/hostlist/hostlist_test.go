package hostlist

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestHostlist(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"cn1":                "cn1",
		"cn[1-3,07],x2":      "cn1 cn2 cn3 cn07 x2",
		"cn[08-11]":          "cn08 cn09 cn10 cn11",
		"cn[9-11]":           "cn9 cn10 cn11",
		"r[1-2]n[01-02].hpc": "r1n01.hpc r1n02.hpc r2n01.hpc r2n02.hpc",
		"a-b_c.d":            "a-b_c.d",
		"[1-2]":              "1 2",
		"b,a,b":              "b a b",
	} {
		got, err := Expand(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Expand(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", ",", "a,", "a,,b", "a[", "a]", "a[]", "a[1", "a[1-]", "a[-1]", "a[3-1]", "a[1,]", "a[x]", "a[[1]]",
		"a b", "a;b", "$(x)", "-rf", "a[1-65537]", "a[1-300][1-300]", "a[1-65536],b", "a[99999999999999999999]",
		"a[0-18446744073709551615]", "é"} {
		if got, err := Expand(bad); !errors.Is(err, ErrSyntax) {
			t.Errorf("Expand(%q) = %d names, %v, want an error", bad, len(got), err)
		}
	}
	if got, err := Expand("a[1-65536]"); err != nil || len(got) != Max {
		t.Errorf("the longest list gave %d names, %v", len(got), err)
	}
}

// What expands has names that are valid by themselves, and no more than allowed.
func FuzzHostlist(f *testing.F) {
	for _, s := range []string{"cn[1-3,07],x2", "r[1-2]n[01-02].hpc", "a[008-012],a8", "[0-3]", "a[999999999999999999]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := Expand(s)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if len(names) == 0 || len(names) > Max {
			t.Fatalf("%q gave %d names", s, len(names))
		}
		again, err := Expand(strings.Join(names, ","))
		if err != nil || !slices.Equal(names, again) {
			t.Errorf("%q gave names that read differently: %v", s, err)
		}
	})
}

func BenchmarkExpandHostlist(b *testing.B) {
	list := fmt.Sprintf("cn[1-%d]", Max)
	for b.Loop() {
		if _, err := Expand(list); err != nil {
			b.Fatal(err)
		}
	}
}
