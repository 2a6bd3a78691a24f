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
