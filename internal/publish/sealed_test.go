package publish

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/source"
)

// TestSiteIsHere: where the site is this machine, what is made there is neither the sealed file nor an input.
func TestSiteIsHere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *setting) error
		says   string
	}{
		"the sealed file": {func(s *setting) error {
			s.r.SealedPath = s.r.DirAtRest + "/d.sealed"
			return nil
		}, "is where the sealed volume is to lie at the site"},
		"the sealed file, by a link": {func(s *setting) error {
			link := filepath.Join(filepath.Dir(s.file), "link")
			s.r.SealedPath = link + "/d.sealed"
			return os.Symlink(s.r.DirAtRest, link)
		}, "is where the sealed volume is to lie at the site"},
		"an input": {func(s *setting) error {
			s.r.Input = source.At(s.r.DirAtRest + "/d.sealed")
			return os.WriteFile(s.r.DirAtRest+"/d.sealed", []byte("precious"), 0o600)
		}, "same file as the input"},
		"an input as the info file": {func(s *setting) error {
			s.r.Input = source.At(s.file)
			return os.Link(s.file, s.r.DirAtRest+"/d.sealed"+InfoSuffix)
		}, "same file as the input"},
		"in an input": {func(s *setting) error {
			s.r.Input = source.At(s.r.DirAtRest)
			return os.WriteFile(s.r.DirAtRest+"/a", nil, 0o600)
		}, "would lie in the directory"},
	} {
		s := newSetting(t)
		if err := c.change(s); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadDir(s.r.DirAtRest)
		_, err := Run(t.Context(), s.d, s.r)
		if err == nil || !strings.Contains(err.Error(), c.says) || fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
			t.Errorf("%s: %v; %s", name, err, fault.Hint(err))
		}
		if after, _ := os.ReadDir(s.r.DirAtRest); len(after) != len(before) {
			t.Errorf("%s: there are %v", name, after)
		}
	}
}

// TestPartialOfOthers: what lies at the site under the names of unfinished uploads is somebody's own.
func TestPartialOfOthers(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	theirs := []string{".partial", InfoSuffix + ".partial", InfoSuffix + SigSuffix + ".partial"}
	for _, end := range theirs {
		err := errors.Join(os.WriteFile(s.r.DirAtRest+"/d.sealed"+end, []byte("precious"), 0o600),
			os.WriteFile(s.r.SealedPath+end, []byte("precious"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := Run(t.Context(), s.d, s.r)
	if err != nil {
		t.Fatal(err)
	}
	s.checkVolume(t, p.Info)
	for _, end := range theirs {
		for _, name := range []string{s.r.DirAtRest + "/d.sealed" + end, s.r.SealedPath + end} {
			if b, err := os.ReadFile(name); err != nil || string(b) != "precious" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
	}
}
