package dataprep

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	input := filepath.Join(t.TempDir(), "genomes")
	if err := os.Mkdir(input, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o             Options
		mounted, path string
	}{
		"named after the input": {Options{Input: source.At(input), OutputDir: "out"}, "genomes", "out/encrypted_genomes.sealed"},
		"slash at the end":      {Options{Input: source.At(input + "/"), OutputDir: "out/"}, "genomes", "out/encrypted_genomes.sealed"},
		"a name of its own": {Options{Input: source.At(input), OutputDir: "out", Target: publish.Target{Name: "x"}},
			"x", "out/encrypted_x.sealed"},
		"a path of its own": {Options{Input: source.At(input), OutputDir: "out",
			Target: publish.Target{SealedPath: "p/enc.tgz"}}, "genomes", "p/enc.tgz"},
	} {
		r, err := c.o.request()
		if err != nil || r.Name != c.mounted || r.SealedPath != c.path || r.Kind != manifest.KindDataset ||
			r.Input.String() != input || r.Input.(source.Input).FileName != "" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	tgz := input + ".tgz"
	if err := os.WriteFile(tgz, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stdin := source.Input{Paths: []string{source.Stdin}}
	for want, o := range map[string]Options{
		"genomes":     {Input: source.At(tgz)},
		"genomes.tgz": {Input: source.Input{Paths: []string{tgz}, AsFile: true}},
		"cohort":      {Input: source.Input{Paths: []string{input, tgz}, AsFile: true}, Target: publish.Target{Name: "cohort"}},
		"piped":       {Input: stdin, Target: publish.Target{Name: "piped"}},
	} {
		o.OutputDir = "out"
		r, err := o.request()
		if err != nil || r.Name != want || r.SealedPath != "out/encrypted_"+want+".sealed" || r.Input.(source.Input).Spool != "out" {
			t.Errorf("%s: %+v, %v", want, r, err)
		}
	}
	for want, o := range map[string]Options{
		"standard input needs a name": {Input: stdin, OutputDir: "out"},
		"needs a name, below":         {Input: source.Input{Paths: []string{input, t.TempDir()}}, OutputDir: "out"},
		"would both be called": {Input: source.Input{Paths: []string{input, tgz}},
			Target: publish.Target{Name: "x"}, OutputDir: "out"},
		"no such file":                    {Input: source.At(input + "x"), OutputDir: "out"},
		"where should the sealed dataset": {Input: source.At(input)},
	} {
		_, err := Run(t.Context(), publish.Deps{}, o) // refused before any party is asked
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestRequestForDot names the directory, not the dot.
func TestRequestForDot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "here")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	r, err := Options{Input: source.At("."), OutputDir: "/out"}.request()
	if err != nil || r.Name != "here" || r.SealedPath != "/out/encrypted_here.sealed" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestOutputInsideInput: the sealed file must not lie in what it is made from.
func TestOutputInsideInput(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "in")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o700), os.Symlink(dir, dir+"-link")); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{dir + "/d.sealed", dir + "/sub/../d.sealed", dir + "-link/d.sealed"} {
		_, err := Run(t.Context(), publish.Deps{}, Options{Input: source.At(dir), Target: publish.Target{SealedPath: out}})
		if err == nil || !strings.Contains(err.Error(), "would lie in the directory that it is made from") ||
			fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.Hint(err), "outside") {
			t.Errorf("%s: %v; %s", out, err, fault.Hint(err))
		}
	}
	if _, err := (Options{Input: source.At(dir), Target: publish.Target{SealedPath: dir + "-beside.sealed"}}).request(); err != nil {
		t.Errorf("beside it: %v", err)
	}
}
