package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/volume"
)

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pattern, matches, not string }{
		{"*.log", "a.log d/e/b.log .log", "a.log.gz log"},
		{"tmp/", "tmp/ d/tmp/", "tmp d/tmp tmpx/"},
		{"/tmp", "tmp tmp/", "d/tmp"},
		{"d/tmp", "d/tmp d/tmp/", "tmp x/d/tmp"},
		{"**/cache", "cache d/cache d/e/cache", "cachex d/cache/x"},
		{"d/**", "d/a d/e/f", "d x/d/a"},
		{"d/**/x", "d/x d/e/x d/e/f/x", "x e/d/x d/x/y"},
		{"[!a]b", "bb d/xb", "ab bbb"},
		{"[a-c]?", "ab d/c1", "a d1"},
		{`\*`, "* d/*", "a"},
		{`\[!`, "[!", "[^ a"},
		{`\!x`, "!x", "x"},
		{`a\`, "", ""},
		{"!x", "", ""},
		{"", "", ""},
		{"/", "", ""},
		{"a//b", "", ""},
		{"../x", "", ""},
		{"[", "", ""},
	} {
		p, err := ParsePatterns([]string{"never", c.pattern})
		if c.matches == "" {
			if !errors.Is(err, ErrPattern) {
				t.Errorf("%q: %v", c.pattern, err)
			}
			continue
		}
		must(t, err)
		for want, list := range map[bool]string{true: c.matches, false: c.not} {
			for _, path := range strings.Fields(list) {
				if got := Excluded(p, strings.TrimSuffix(path, "/"), strings.HasSuffix(path, "/")); got != want {
					t.Errorf("%q matches %q: %v", c.pattern, path, got)
				}
			}
		}
	}
}

// TestExclude: what is left out is neither sealed nor counted nor missed, even
// if it could not be read.
func TestExclude(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"keep/a", "keep/a.log", "tmp/x", "keep/tmp/y"} {
		p := filepath.Join(dir, name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte("text"), 0o600)))
	}
	must(t, syscall.Mkfifo(filepath.Join(dir, "tmp/pipe"), 0o600))
	patterns, err := ParsePatterns([]string{"*.log", "/tmp/"})
	must(t, err)
	usage, fingerprint, err := Scan(t.Context(), dir, patterns...)
	if err != nil || usage.Entries != 4 || usage.PlainBytes != 8 {
		t.Errorf("%+v, %v", usage, err)
	}
	src := Dir(dir, patterns...)
	if u, err := Dir(dir+"/", patterns...).(volume.Measurer).Measure(t.Context()); err != nil || u != usage {
		t.Errorf("measured %+v, scanned %+v, %v", u, usage, err)
	}
	sealed, r := sealAndOpen(t, src)
	text := list(t, r)
	if sealed.Entries != 4 || strings.Contains(text, "log") || strings.Contains(text, "pipe") || !strings.Contains(text, `"y"`) {
		t.Errorf("%s", text)
	}
	if _, _, err := Scan(context.Background(), dir); !errors.Is(err, volume.ErrSpecial) {
		t.Errorf("nothing left out: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "keep/a.log"), []byte("more of it"), 0o600))
	if _, again, err := Scan(t.Context(), dir, patterns...); err != nil || again != fingerprint {
		t.Errorf("a file that is left out counts: %v", err)
	}
}
