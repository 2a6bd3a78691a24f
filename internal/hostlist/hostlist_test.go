package hostlist

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const many = 1 << 16

// expand is what Contains is held against: it writes down every name, as Slurm does
// (the end-to-end tests hold both against scontrol show hostnames).
func expand(list string) (names []string) {
	l, err := Parse(many, list)
	if err != nil {
		return nil
	}
	for _, p := range l.patterns {
		all := []string{""}
		for _, e := range p {
			words := []string{e.literal}
			if e.ranges != nil {
				words = nil
			}
			for _, r := range e.ranges {
				for n := r.low; n <= r.high; n++ {
					words = append(words, fmt.Sprintf("%0*d", r.width, n))
				}
			}
			var longer []string
			for _, a := range all {
				for _, w := range words {
					longer = append(longer, a+w)
				}
			}
			all = longer
		}
		names = append(names, all...)
	}
	return names
}

func TestExpandOfTests(t *testing.T) {
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
		if got := strings.Join(expand(in), " "); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	for list, c := range map[string]struct{ in, out string }{
		"cn[01-10]":                 {"cn01 cn09 cn10", "cn1 cn9 cn00 cn11 cn010 cn001 cn xcn01 cn01x"},
		"cn[9-11]":                  {"cn9 cn10 cn11", "cn09 cn011 cn8 cn12 cn1"},
		"cn[007-12]":                {"cn007 cn012", "cn7 cn12 cn07 cn0012"},
		"r[1-2]n[1-3]":              {"r1n1 r2n3", "r3n1 r1n4 r12n1 rn1 r1n"},
		"a1[2-3]":                   {"a12 a13", "a1 a2 a123 a112"},
		"[1-2][3-4]":                {"13 24", "1 3 33 134"},
		"[1-12][1-12]":              {"11 111 1212 121", "1 00 1300 13131 12120"},
		"[1-99]0[1-99]":             {"101 9909 1001 10022", "100 1 10101"},
		"x[0-1]":                    {"x0 x1", "x x00 x01"},
		"cn[1-3],cn[2-5],cn2":       {"cn1 cn2 cn5", "cn6"},
		"a[1-999999999999999999]":   {"a1 a999999999999999999", "a0 a1000000000000000000 a99999999999999999999999"},
		"nid[001032,001044]-ib.hpc": {"nid001032-ib.hpc", "nid1032-ib.hpc nid001032"},
		"cn1":                       {"cn1", "cn01 cn10 CN1 cn"},
	} {
		l, err := Parse(64, list)
		if err != nil {
			t.Errorf("%s: %v", list, err)
		}
		for _, n := range strings.Fields(c.in) {
			if !l.Contains(n) {
				t.Errorf("%s lacks %s", list, n)
			}
		}
		for _, n := range append(strings.Fields(c.out), "", strings.Repeat("1", 400)) {
			if l.Contains(n) {
				t.Errorf("%s contains %.40s", list, n)
			}
		}
	}
	if (List{}).Contains("cn1") {
		t.Error("no list contains a name")
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", ",", "a,", ",a", "a,,b", "a[", "a]", "a[]", "a[1", "a[1-]", "a[-1]", "a[3-1]", "a[1,]", "a[,1]",
		"a[x]", "a[[1]]", "a[1-[2]]", "a[1]]", "a b", "a;b", "$(x)", "-rf", ".a", "*", "a*", "é", "a[1][2][3][4]",
		"a[99999999999999999999]", "a[0-18446744073709551615]", "a[1-2-3]", "a[+1]", strings.Repeat("a", 256)} {
		if l, err := Parse(many, bad); !errors.Is(err, ErrSyntax) || len(l.patterns) > 0 {
			t.Errorf("Parse(%.40q): %v, want an error", bad, err)
		}
	}
	if _, err := Parse(many, "a", ""); !errors.Is(err, ErrSyntax) {
		t.Errorf("an empty one among several: %v", err)
	}
}

// TestParts: what a list may cost is bounded over all of it.
func TestParts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lists []string
		parts int
	}{
		{[]string{"a"}, 1}, {[]string{"a[1-9]"}, 1}, {[]string{"a[1,3-5]b[7-9]"}, 3}, {[]string{"a,b", "c[1,2]"}, 4},
		{[]string{"a[" + strings.Repeat("1,", 499) + "1]"}, 500},
	} {
		if _, err := Parse(c.parts, c.lists...); err != nil {
			t.Errorf("%.40q of %d parts: %v", c.lists, c.parts, err)
		}
		if _, err := Parse(c.parts-1, c.lists...); !errors.Is(err, ErrSyntax) {
			t.Errorf("%.40q passes as %d parts: %v", c.lists, c.parts-1, err)
		}
	}
}

// TestAgainstExpansion holds Contains against expand for every short name of the
// letters that small lists are made of, where numbers meet literals and each other.
func TestAgainstExpansion(t *testing.T) {
	t.Parallel()
	var all []string
	for from, length := []string{""}, 0; length < 5; length++ {
		var longer []string
		for _, s := range from {
			for _, c := range []string{"0", "1", "2", "9", "a"} {
				longer = append(longer, s+c)
			}
		}
		all, from = append(all, longer...), longer
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		list := randomList(r)
		l, err := Parse(many, list)
		if err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		want := map[string]bool{}
		for _, n := range expand(list) {
			want[n] = true
			if !l.Contains(n) {
				t.Fatalf("%s lacks %s", list, n)
			}
		}
		for _, n := range all {
			if l.Contains(n) != want[n] {
				t.Fatalf("%s: Contains(%s) = %t", list, n, !want[n])
			}
		}
	}
}

// randomList makes a list of names of few letters, with up to three brackets each.
func randomList(r *rand.Rand) string {
	var items []string
	for range 1 + r.IntN(3) {
		item := ""
		for brackets := r.IntN(4); item == "" || brackets > 0; brackets-- {
			for range r.IntN(2) {
				item += string("0129a"[r.IntN(5)])
			}
			if brackets == 0 {
				item += "a"
				break
			}
			var ranges []string
			for range 1 + r.IntN(2) {
				low := r.IntN(25)
				ranges = append(ranges, fmt.Sprintf("%0*d-%d", 1+r.IntN(3), low, low+r.IntN(12)))
			}
			item += "[" + strings.Join(ranges, ",") + "]"
		}
		items = append(items, item)
	}
	return strings.Join(items, ",")
}

// A name that a list was written down as is in it, and nothing panics.
func FuzzContains(f *testing.F) {
	for _, s := range []string{"cn[1-3,07],x2", "r[1-2]n[01-02].hpc", "a[008-012],a8", "[0-3]", "a[999999999999999999]"} {
		f.Add(s, "cn2")
	}
	f.Fuzz(func(t *testing.T, list, name string) {
		l, err := Parse(64, list)
		if err != nil {
			if !errors.Is(err, ErrSyntax) || len(l.patterns) > 0 {
				t.Errorf("%q: %v", list, err)
			}
			return
		}
		got := l.Contains(name)
		var names uint64 // that it stands for
		for _, p := range l.patterns {
			n := uint64(1)
			for _, e := range p {
				var m uint64
				for _, s := range e.ranges {
					m += min(s.high-s.low+1, 1<<13)
				}
				n *= max(m, 1)
			}
			names += n
		}
		if names < 1<<12 && got != slices.Contains(expand(list), name) {
			t.Errorf("%q: Contains(%q) = %t", list, name, got)
		}
	})
}

// BenchmarkWorst is the dearest list and name of 64 parts.
func BenchmarkWorst(b *testing.B) {
	const wide = "[1-999999999999999998]"
	l, err := Parse(64, strings.TrimSuffix(strings.Repeat(wide+wide+wide+",", 21), ","))
	if err != nil {
		b.Fatal(err)
	}
	name := strings.Repeat("1", 60)
	steps := 0
	for b.Loop() {
		in, n := l.Look(name)
		if in {
			b.Fatal("contained")
		}
		steps = n
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*steps), "ns/step")
}
