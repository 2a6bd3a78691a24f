package containerprep

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o    Options
		path string
	}{
		"named after the image": {Options{OutputDir: "out"}, "out/encrypted_prepared_jp2a.sif"},
		"a path of its own":     {Options{OutputDir: "out", Target: publish.Target{SealedPath: "p/x"}}, "p/x"},
	} {
		r := c.o.request("jp2a", source.Input{Paths: []string{"i"}})
		if r.Name != "jp2a" || r.SealedPath != c.path || r.Kind != manifest.KindImage || r.Input.String() != "i" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestNotAnImage is refused before any party is asked.
func TestNotAnImage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.sif")
	if err := os.WriteFile(file, []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, img := range []string{file, filepath.Dir(file) + "/.", "library://talinx/jp2a"} {
		_, err := Run(t.Context(), publish.Deps{}, Options{Image: img, OutputDir: t.TempDir()})
		if !errors.Is(err, image.ErrFormat) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", img, err)
		}
	}
}

// TestSIFFileAsItWas: a file that is not what its digest was taken of is not sealed.
func TestSIFFileAsItWas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.sif")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := sifFile{Input: source.Input{Paths: []string{path}, AsFile: true, FileName: manifest.ImageFile}}
	d, err := in.digest(t.Context(), path)
	if err != nil || d != manifest.DigestOf([]byte("abc")) {
		t.Fatalf("%v, %v", d, err)
	}
	if _, _, err := in.Scan(t.Context()); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	if err := os.WriteFile(path, []byte("abd!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Scan(t.Context()); !errors.Is(err, volume.ErrChanged) {
		t.Errorf("changed: %v", err)
	}
}
