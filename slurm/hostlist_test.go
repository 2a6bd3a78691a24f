package slurm

import (
	"errors"
	"fmt"
	"reflect"
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
		got, err := ExpandHostlist(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("ExpandHostlist(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", ",", "a,", "a,,b", "a[", "a]", "a[]", "a[1", "a[1-]", "a[-1]", "a[3-1]", "a[1,]", "a[x]", "a[[1]]",
		"a b", "a;b", "$(x)", "-rf", "a[1-65537]", "a[1-300][1-300]", "a[1-65536],b", "a[99999999999999999999]", "a[0-18446744073709551615]", "é"} {
		if got, err := ExpandHostlist(bad); !errors.Is(err, ErrHostlist) {
			t.Errorf("ExpandHostlist(%q) = %d names, %v, want an error", bad, len(got), err)
		}
	}
	if got, err := ExpandHostlist("a[1-65536]"); err != nil || len(got) != MaxHosts {
		t.Errorf("the longest list gave %d names, %v", len(got), err)
	}
}

func TestCompressHostlist(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"cn2 cn1 cn3 x2 cn07 cn1": "cn[1-3,07],x2", "cn9 cn10 cn11": "cn[9-11]", "cn08 cn09 cn10": "cn[08-10]", "a": "a", "a b": "a,b",
		"cn1 cn3": "cn[1,3]", "1 2": "[1-2]", "a1b a2b": "a1b,a2b", "": "",
	} {
		if got := CompressHostlist(strings.Fields(in)); got != want {
			t.Errorf("CompressHostlist(%s) = %q, want %q", in, got, want)
		}
	}
}

// What expands, compresses and expands to the same set.
func FuzzHostlist(f *testing.F) {
	for _, s := range []string{"cn[1-3,07],x2", "r[1-2]n[01-02].hpc", "a[008-012],a8", "[0-3]", "a[999999999999999999]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := ExpandHostlist(s)
		if err != nil {
			if !errors.Is(err, ErrHostlist) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if len(names) == 0 || len(names) > MaxHosts {
			t.Fatalf("%q gave %d names", s, len(names))
		}
		again, err := ExpandHostlist(CompressHostlist(names))
		if err != nil {
			t.Fatalf("%q compressed to %q: %v", s, CompressHostlist(names), err)
		}
		slices.Sort(names)
		slices.Sort(again)
		if !reflect.DeepEqual(slices.Compact(names), again) {
			t.Errorf("%q came back as %q", s, CompressHostlist(names))
		}
	})
}

func BenchmarkExpandHostlist(b *testing.B) {
	list := fmt.Sprintf("cn[1-%d]", MaxHosts)
	for b.Loop() {
		if _, err := ExpandHostlist(list); err != nil {
			b.Fatal(err)
		}
	}
}
