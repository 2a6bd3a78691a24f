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

// TestSiteIsHere: where the site is this machine, what is made there is no input and lies in none.
func TestSiteIsHere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *setting) error
		says   string
	}{
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

// TestSamePlace: the sealed file and the one at the site are to be the same, which is then the published one alone.
func TestSamePlace(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.withState(t)
	link := filepath.Join(filepath.Dir(s.file), "link")
	if err := os.Symlink(s.r.DirAtRest, link); err != nil {
		t.Fatal(err)
	}
	s.r.SealedPath = link + "/d.sealed"
	keys := s.d.Keys
	for _, content := range []string{"one", "two", "three"} {
		if err := os.WriteFile(s.file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(s.r.SealedPath)
		s.d.Keys = awayKeys{s.service.Client(t, s.d.Signer)}
		if _, err := Run(t.Context(), s.d, s.r); err == nil {
			t.Fatal("no error without a key service")
		}
		if now, _ := os.ReadFile(s.r.SealedPath); string(now) != string(before) {
			t.Error("the version before was replaced, and is not superseded")
		}
		s.d.Keys = keys
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil {
			t.Fatal(err)
		}
		if names, _ := filepath.Glob(s.r.DirAtRest + "/*"); len(names) != 3 || p.Already {
			t.Errorf("there are %q", names)
		}
		if p, err = Run(t.Context(), s.d, s.r); err != nil || !p.Already {
			t.Errorf("again: %+v, %v", p, err)
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
