package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(t \*testing\.T\)`)
	namedTest = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
)

// outOfStep compares the tables of attacks in a document with the tests that
// there are: names of tests, with whether they play attacks.
func outOfStep(document string, tests map[string]bool) (wrong []string) {
	_, section, ok := strings.Cut(document, "\n## Attacks and their tests\n")
	if !ok {
		return []string{"the document has no section of attacks"}
	}
	named := map[string]bool{}
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| attack |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 || strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[1]) == "" {
			wrong = append(wrong, fmt.Sprintf("not an attack, what keeps it out, and a test: %s", line))
			continue
		}
		found := namedTest.FindAllStringSubmatch(cells[2], -1)
		if len(found) == 0 {
			wrong = append(wrong, "shown by no test: "+strings.TrimSpace(cells[0]))
		}
		for _, m := range found {
			named[m[1]] = true
			if _, ok := tests[m[1]]; !ok {
				wrong = append(wrong, "there is no "+m[1])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if tests[name] && !named[name] {
			wrong = append(wrong, name+" stands in no table")
		}
	}
	return wrong
}

// TestAttacksAreDocumented: the threat model's tables name tests that there
// are, and every attack that is played.
func TestAttacksAreDocumented(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := os.ReadFile(p)
		for _, m := range testFunc.FindAllSubmatch(b, -1) {
			tests[string(m[1])] = bytes.HasPrefix(m[1], []byte("TestAttack")) && strings.Contains(filepath.ToSlash(p), "/e2e/")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range outOfStep(string(b), tests) {
		t.Error(w)
	}
}

// TestAttacksAreDocumentedBites: what is out of step is found.
func TestAttacksAreDocumentedBites(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{"TestAttackA": true, "TestAttackB": true, "TestC": false, "TestD": false}
	const head = "# x\n\n## Attacks and their tests\n\n| attack | kept out by | shown by |\n|---|---|---|\n"
	for document, want := range map[string]int{
		head + "| a | b | `TestAttackA`, `TestC` |\n| b | *not kept out* | `TestAttackB` |\n": 0,
		head + "| a | b | `TestAttackA` |\n":                                                  1, // B is missing
		head + "| a | b | `TestAttackA`, `TestAttackB`, `TestE` |\n":                          1, // no such test
		head + "| a | b | `TestAttackA`, `TestAttackB` |\n| c | d | later |\n":                1, // no test
		head + "| a | | `TestAttackA`, `TestAttackB` |\n":                                     3, // by nothing
		"# nothing\n": 1,
	} {
		if got := outOfStep(document, tests); len(got) != want {
			t.Errorf("%q: %q, want %d", document, got, want)
		}
	}
}
