package names

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		valid     func(string) bool
		good, bad []string
	}{
		"node": {Node, []string{"cn1", "r1n01.hpc", "_x", strings.Repeat("n", 255)},
			[]string{"", "-x", ".x", "a/b", "a b", "cn[1-2]", "cn1\n", "é", strings.Repeat("n", 256)}},
		"word": {Word, []string{"box", "project_1", "a.b-c", "462000123", "gpu+", "p@site", "Upper"},
			[]string{"", "-x", "+x", "a/b", "a b", "x\n", strings.Repeat("w", 129)}},
		"Unix name": {Unix,
			[]string{"alice", "_apt", "a.b@c", "host$", "A-1", "1a", "10012345", `DOM\alice`, "alice@dom.example.org", "domain users", "DOM+alice",
				`DOM\domain users`, "Alice.Smith", "jürgen", "R&D (EU)", "o'brien", "c#", strings.Repeat("u", 255)},
			[]string{"", "-x", "+1000", ".x", " x", "x ", `\x`, `DOM\`, "$", "a$b", "a$$", "alice\n", "a\tb", "a:b", "a,b", "a/b", "*", "a*", `a"b`,
				"a`b", "a;b", "a|b", "a\x00b", "a\u00a0b", "a\u200bb", "a\u202eb", "\xff", "\u0301a", strings.Repeat("u", 256)}},
		"id": {ID, []string{strings.Repeat("0a", 16)},
			[]string{"", strings.Repeat("0A", 16), strings.Repeat("0a", 17), strings.Repeat("0a", 16) + "\n"}},
	} {
		for _, s := range c.good {
			if !c.valid(s) {
				t.Errorf("%q is no %s", s, name)
			}
		}
		for _, s := range c.bad {
			if c.valid(s) {
				t.Errorf("%q passed as a %s", s, name)
			}
		}
	}
}
