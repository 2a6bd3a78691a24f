package manifest

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestScriptNames: a node makes each file of a manifest below one directory of its own.
func TestScriptNames(t *testing.T) {
	t.Parallel()
	list := func(names ...string) (out []FileRef) {
		for _, n := range names {
			out = append(out, FileRef{Name: n, Digest: DigestOf(nil)})
		}
		return out
	}
	good := list("a.sh", "b/c.sh", "b/d/e", "b/d/f", ".x/y")
	if err := validScripts(good); err != nil {
		t.Error(err)
	}
	if dirs := Parents(good); !slices.Equal(dirs, []string{"b", "b/d", ".x"}) {
		t.Errorf("directories: %q", dirs)
	}
	for name, bad := range map[string][]FileRef{
		"up": list("../a.sh"), "up inside": list("a/../../b.sh"), "here": list("./a.sh"), "root": list("/a.sh"), "empty": list(""),
		"dot": list("."), "nothing between": list("a//b.sh"), "a directory's": list("a/"), "NUL": list("a\x00.sh"), "newline": list("a/b\n.sh"),
		"long": list(strings.Repeat("a/", 256) + "b"), "twice": list("a/b", "a/b"), "file and directory": list("a/b/c", "a/b"),
		"no digest": {{Name: "a.sh"}},
	} {
		if err := validScripts(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
