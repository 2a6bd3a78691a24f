package sifbuild

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/volume"
)

// layerOf returns a layer with these entries: a path that ends in "/" is a directory, "link -> target" a symbolic link,
// everything else a program that contains its path.
func layerOf(t *testing.T, entries ...string) layers.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(e)), ModTime: time.Unix(1, 0)}
		if link, target, ok := strings.Cut(e, " -> "); ok {
			h = &tar.Header{Name: link, Linkname: target, Typeflag: tar.TypeSymlink}
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e)[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes()))
	return layers.Layer{Digest: digest, DiffID: digest, Size: int64(b.Len()),
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }}
}

func imageOf(config v1.Config, ls ...layers.Layer) *image.Image {
	return &image.Image{
		Name: "test", Reference: "docker.io/some/test:1", Digest: "sha256:" + strings.Repeat("1", 64), DigestOf: image.OfManifest,
		Platform: "linux/arm64/v8", Layers: ls,
		Config: &v1.ConfigFile{Architecture: "arm64", OS: "linux", Created: v1.Time{Time: time.Unix(1700000000, 5)}, Config: config},
	}
}

// write makes the SIF file and returns its path.
func write(t *testing.T, s Source) (string, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.sif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = s.Walk(t.Context(), func(e volume.Entry) (uint32, error) {
		if e.Late == nil {
			return 0, nil
		}
		if e.Name != "image.sif" {
			t.Errorf("the file is called %q", e.Name)
		}
		if _, err := f.Seek(e.Late.HeadSize, io.SeekStart); err != nil {
			return 0, err
		}
		head, err := e.Late.Write(t.Context(), f)
		if err == nil && int64(len(head)) != e.Late.HeadSize {
			t.Errorf("the head has %d bytes instead of %d", len(head), e.Late.HeadSize)
		}
		if err == nil {
			_, err = f.WriteAt(head, 0)
		}
		return 1, err
	})
	return f.Name(), err
}

// list returns what unsquashfs says of the file system in a SIF file: modes, owners and targets by path.
func list(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := sif.LoadContainerFromPath(path, sif.OptLoadWithFlag(os.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer f.UnloadContainer()
	d, err := f.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unsquashfs", "-o", fmt.Sprint(d.Offset()), "-lln", "-d", "", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	entries := map[string]string{}
	for line := range strings.Lines(string(out)) {
		w := strings.Fields(line)
		if len(w) < 6 {
			continue
		}
		entries[w[5]] = strings.Join(append(w[:1:1], w[6:]...), " ")
	}
	return entries
}

// TestTree: what the runtime needs is there, through the image's own links, and what the image has stays.
func TestTree(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	img := imageOf(v1.Config{Entrypoint: []string{"/bin/prog"}}, layerOf(t,
		"usr/bin/", "usr/bin/sh", "bin -> usr/bin", "etc -> /usr/etc", "usr/etc/passwd", "usr/etc/resolv.conf -> ../../run/nowhere", "home -> var/home",
		"tmp/", "var/tmp -> ../tmp", "environment", "singularity -> elsewhere", ".singularity.d/env/91-environment.sh", ".singularity.d/runscript",
		".singularity.d/actions -> /usr", "sd-container", "loop -> loop"))
	path, err := write(t, Source{Image: img, FileName: "image.sif", Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	got := list(t, path)
	for name, want := range map[string]string{
		"/dev": "drwxr-xr-x", "/proc": "drwxr-xr-x", "/sys": "drwxr-xr-x", "/root": "drwxr-xr-x", "/tmp": "drwxr-xr-x",
		"/var/tmp": "lrwxrwxrwx -> ../tmp", "/home": "lrwxrwxrwx -> var/home", "/var/home": "drwxr-xr-x", "/sd-container": "drwxr-xr-x",
		"/etc": "lrwxrwxrwx -> /usr/etc", "/usr/etc/hosts": "-rw-r--r--", "/usr/etc/resolv.conf": "-rw-r--r--", "/usr/etc/passwd": "-rwxr-xr-x",
		"/usr/etc/group": "-rw-r--r--", "/environment": "-rwxr-xr-x", "/singularity": "lrwxrwxrwx -> .singularity.d/runscript",
		"/.run": "lrwxrwxrwx -> .singularity.d/actions/run", "/.singularity.d/actions/run": "-rwxr-xr-x",
		"/.singularity.d/env/91-environment.sh": "-rwxr-xr-x", "/.singularity.d/env/10-docker2singularity.sh": "-rwxr-xr-x",
		"/.singularity.d/labels.json": "-rw-r--r--", "/.singularity.d/Singularity": "-rw-r--r--", "/.singularity.d/libs": "drwxr-xr-x",
		"/.singularity.d/runscript": "-rwxr-xr-x", "/loop": "lrwxrwxrwx -> loop", "/usr/exec": "", "/run": "",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if s := said.String(); !strings.Contains(s, "replaced in the image, since the runtime mounts there: /sd-container") || strings.Contains(s, "no /bin/sh") {
		t.Errorf("said: %s", s)
	}
}

// TestReplacedAbove: what stands where a directory above a mount point has to be becomes one that only root writes to.
func TestReplacedAbove(t *testing.T) {
	t.Parallel()
	path, err := write(t, Source{Image: imageOf(v1.Config{}, layerOf(t, "var", "etc -> etc")), FileName: "image.sif"})
	if err != nil {
		t.Fatal(err)
	}
	got := list(t, path)
	for name, want := range map[string]string{"/var": "drwxr-xr-x", "/var/tmp": "drwxrwxrwt", "/etc": "drwxr-xr-x"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

// TestSameBytes: an image becomes the same file each time, and an empty one a file, too.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	s := Source{Image: imageOf(v1.Config{Env: []string{"A=b"}, Labels: map[string]string{"a": "b", "c": "d"}}, layerOf(t)), FileName: "image.sif",
		Log: slog.New(slog.NewTextHandler(&said, nil))}
	var files [2][]byte
	for i := range files {
		path, err := write(t, s)
		if err != nil {
			t.Fatal(err)
		}
		if files[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		if info, err := image.Inspect(path); err != nil || info.Arch != "arm64" {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("another time the file is different")
	}
	if !strings.Contains(said.String(), "the image has no /bin/sh") {
		t.Errorf("said: %s", &said)
	}
}

// TestFingerprint is of the image, whatever it is called, and of what it becomes.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	s := Source{Image: imageOf(v1.Config{}, layerOf(t, "a"))}
	usage, first, err := s.Scan(t.Context())
	stored := s.Image.Layers[0].Size
	if err != nil || usage.PlainBytes != 0 || usage.SealedBytes != stored/5 {
		t.Errorf("of a plain layer of %d bytes: %+v, %v", stored, usage, err)
	}
	packed := s.Image.Layers[0]
	packed.Digest = "sha256:1"
	if u, _, err := (Source{Image: imageOf(v1.Config{}, packed)}).Scan(t.Context()); err != nil || u.SealedBytes != stored/4*3 {
		t.Errorf("of a compressed layer of %d bytes: %+v, %v", stored, u, err)
	}
	seen := map[volume.Digest]string{first: "the image"}
	for name, change := range map[string]func(*Source){
		"":                 func(s *Source) { s.Image.Reference = "localhost/mirror@sha256:1" },
		"another digest":   func(s *Source) { s.Image.Digest = "sha256:2" },
		"another platform": func(s *Source) { s.Image.Platform = "linux/amd64" },
		"compression":      func(s *Source) { s.Options.Compression = 1 },
		"level":            func(s *Source) { s.Options.Level = 9 },
	} {
		changed := s
		img := *s.Image
		changed.Image = &img
		change(&changed)
		_, d, _ := changed.Scan(t.Context())
		if name == "" && d != first {
			t.Error("another name is another image")
		}
		if was, ok := seen[d]; ok && name != "" {
			t.Errorf("%s: as %s", name, was)
		}
		seen[d] = name
	}
}

// TestRefused: images of which no file can be made, before anything is read.
func TestRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*image.Image){
		"for windows/amd64":    func(i *image.Image) { i.Platform = "windows/amd64" },
		"zero byte":            func(i *image.Image) { i.Config.Config.Cmd = []string{"a\x00b"} },
		"unknown architecture": func(i *image.Image) { i.Platform = "linux/pdp11" },
	} {
		img := imageOf(v1.Config{})
		change(img)
		_, err := write(t, Source{Image: img, FileName: "image.sif"})
		_, _, early := Source{Image: img}.Scan(t.Context())
		for _, err := range []error{err, early} {
			if !errors.Is(err, ErrImage) || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
				t.Errorf("%s: %v", want, err)
			}
		}
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for reference, want := range map[string]origin{
		"docker.io/talinx/jp2a:latest":       {"docker", "docker.io/talinx/jp2a@D"},
		"localhost:5000/jp2a":                {"docker", "localhost:5000/jp2a@D"},
		"localhost:5000/jp2a:1@sha256:0":     {"docker", "localhost:5000/jp2a@D"},
		"docker-archive:/home/me/x.tar:jp2a": {"docker-archive", "D"},
		"oci:/home/me/dir:tag":               {"oci", "D"},
		"oci-archive:/home/me/x.tar":         {"oci-archive", "D"},
		"docker-daemon:jp2a":                 {"docker-daemon", "D"},
	} {
		if got := originOf(reference, "D"); got != want {
			t.Errorf("%s: %+v", reference, got)
		}
	}
}
