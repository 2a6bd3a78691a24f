package containerprep

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sbom"
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
		r := preparation{Options: c.o}.request("jp2a", source.Input{Paths: []string{"i"}}, &manifest.Image{})
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

// TestBeside: a bill of materials is a file beside the image, which changes the fingerprint, and nothing else.
func TestBeside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.sif")
	if err := os.WriteFile(path, []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := source.Input{Paths: []string{path}, AsFile: true, FileName: manifest.ImageFile}
	_, alone, err := in.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[volume.Digest]bool{alone: true, {}: true}
	for _, f := range []sbom.File{{Name: "a", Content: []byte("x")}, {Name: "a", Content: []byte("y")}, {Name: "b", Content: []byte("y")}} {
		p := preparation{bill: &f}
		r := p.request("x", in, &manifest.Image{})
		_, fingerprint, err := r.Input.Scan(t.Context())
		if err != nil || seen[fingerprint] {
			t.Errorf("%+v: %v, %v", f, fingerprint, err)
		}
		seen[fingerprint] = true
		if s := r.Image.SBOM; s == nil || s.Name != f.Name || s.Size != 1 || s.Digest != manifest.DigestOf(f.Content) {
			t.Errorf("%+v: %+v", f, s)
		}
		if files := r.Input.(interface{ Files() []string }).Files(); !slices.Equal(files, in.Files()) {
			t.Errorf("it is read from %q", files)
		}
		var names []string
		err = r.Input.Walk(t.Context(), func(e volume.Entry) (uint32, error) {
			names = append(names, e.Name)
			return uint32(len(names) - 1), nil
		})
		if err != nil || !slices.Equal(names, []string{"", manifest.ImageFile, f.Name}) {
			t.Errorf("%q, %v", names, err)
		}
	}
}

// TestSpoolDir: what is fetched lies beside the sealed file, and not in /tmp, which may be memory, unless TMPDIR says where.
func TestSpoolDir(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		tmpdir string
		o      Options
		want   string
	}{
		{"", Options{OutputDir: dir}, dir},
		{"", Options{OutputDir: "/", Target: publish.Target{SealedPath: dir + "/x.sif"}}, dir},
		{"", Options{OutputDir: dir + "/none"}, ""},
		{"/var/tmp", Options{OutputDir: dir}, ""},
	} {
		t.Setenv("TMPDIR", c.tmpdir)
		if got := c.o.spoolDir(); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestMirrorsAreAsked: an image comes from the mirror that the configuration names; a line that names none is an error.
func TestMirrorsAreAsked(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case asked <- req.URL.Path:
		default:
		}
		if req.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	at := strings.TrimPrefix(s.URL, "http://")
	o := Options{Image: "docker://" + at + "/lab/tool", OutputDir: t.TempDir(), Mirrors: []string{at + "=http://" + at + "/copies"}}
	if _, err := Run(t.Context(), publish.Deps{}, o); err == nil || !strings.Contains(err.Error(), "has no such image") {
		t.Errorf("%v", err)
	}
	close(asked)
	paths := slices.Collect(func(yield func(string) bool) {
		for p := range asked {
			if strings.Contains(p, "manifests") && !yield(p) {
				return
			}
		}
	})
	if want := []string{"/v2/copies/lab/tool/manifests/latest", "/v2/lab/tool/manifests/latest"}; !slices.Equal(paths, want) {
		t.Errorf("asked for %q", paths)
	}
	o.Mirrors = []string{"docker.io"}
	if _, err := Run(t.Context(), publish.Deps{}, o); fault.ClassOf(err) != fault.Config || fault.Hint(err) == "" {
		t.Errorf("%v", err)
	}
}
