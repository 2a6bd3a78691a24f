package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/sealbatch/sealbatch/internal/image"
)

// programs makes a directory of two programs.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"sealbatch", "gocryptfs"} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte("the program "+p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestArchive: the archive is the same twice, is read by what reads docker save's and OCI's, and holds what it should.
func TestArchive(t *testing.T) {
	t.Parallel()
	o := options{bin: programs(t), registry: "registry.lab:5000/sb", tag: "1.2", version: "v1.2", arch: "arm64", created: 1_700_000_000,
		out: filepath.Join(t.TempDir(), "images.tar")}
	var written [2][]byte
	for i := range written {
		if err := run(o); err != nil {
			t.Fatal(err)
		}
		written[i], _ = os.ReadFile(o.out)
	}
	if len(written[0]) == 0 || !bytes.Equal(written[0], written[1]) {
		t.Error("the same programs give other bytes")
	}
	for _, target := range targets {
		ref, err := name.NewTag("registry.lab:5000/sb/" + target.name + ":1.2")
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(o.out, &ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if c.Architecture != "arm64" || c.OS != "linux" || !slices.Equal(c.Config.Entrypoint, target.entrypoint) ||
			c.Config.Labels["org.opencontainers.image.version"] != "v1.2" || c.Config.WorkingDir != workDir {
			t.Errorf("%s: %+v", target.name, c)
		}
		for _, form := range []string{"docker-archive:", "oci-archive:"} {
			same, err := image.Open(t.Context(), form+o.out+":"+ref.String(), image.Options{Platform: "linux/arm64"})
			if err != nil {
				t.Errorf("%s: %v", form, err)
				continue
			}
			same.Close()
		}
	}
}

// TestTree: what is laid out for the Dockerfile is what the layer holds.
func TestTree(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "root")
	if err := run(options{bin: programs(t), root: root}); err != nil {
		t.Fatal(err)
	}
	files, err := tree(programs(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := os.Lstat(filepath.Join(root, f.name))
		if err != nil {
			t.Error(err)
			continue
		}
		want := (&tar.Header{Mode: f.mode, Typeflag: f.kind}).FileInfo().Mode()
		if st.Mode() != want {
			t.Errorf("%s: %v, not %v", f.name, st.Mode(), want)
		}
	}
	for _, step := range []string{"container-prep", "data-prep", "job-prep", "results"} {
		if b, _ := os.ReadFile(filepath.Join(root, "usr/local/bin", step)); string(b) != "the program sealbatch" {
			t.Errorf("%s is %q", step, b)
		}
	}
	pem, _ := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(pem) {
		t.Error("no authorities")
	} else if n := bytes.Count(pem, []byte("BEGIN CERTIFICATE")); n < 50 {
		t.Errorf("only %d authorities", n)
	}
}

// TestDockerfile: its stages are the targets, and make the same of them.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]string{}
	for _, s := range regexp.MustCompile(`(?m)^FROM \S+ AS `).Split(string(b), -1)[1:] {
		stage, text, _ := strings.Cut(s, "\n")
		stages[stage] = text
	}
	array := func(words []string) string {
		for i, w := range words {
			words[i] = fmt.Sprintf("%q", w)
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	for _, target := range targets {
		text := stages[target.name]
		if want := "ENTRYPOINT " + array(slices.Clone(target.entrypoint)) + "\n"; !strings.Contains(text, want) {
			t.Errorf("the stage %s lacks %s", target.name, want)
		}
		if want := "CMD " + array(slices.Clone(target.command)) + "\n"; len(target.command) > 0 && !strings.Contains(text, want) {
			t.Errorf("the stage %s lacks %s", target.name, want)
		}
		if want := "image.title=" + target.name + "\n"; !strings.Contains(text, want) {
			t.Errorf("the stage %s lacks %s", target.name, want)
		}
	}
	if want := "ENV " + strings.Join(environment, " ") + "\n"; !strings.Contains(stages["base"], want) {
		t.Errorf("the stage base lacks %s", want)
	}
	if want := "WORKDIR " + workDir + "\n"; !strings.Contains(stages["base"], want) {
		t.Errorf("the stage base lacks %s", want)
	}
	if len(stages) != len(targets)+2 {
		t.Errorf("%d stages for %d targets", len(stages), len(targets))
	}
}

// TestRefusals: what is missing is said, and nothing is left.
func TestRefusals(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "images.tar")
	err := run(options{bin: t.TempDir(), out: out, registry: "localhost/x", tag: "1", arch: "amd64"})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without programs: %v", err)
	}
	if err := run(options{bin: programs(t), out: out, registry: "Not A Name", tag: "1", arch: "amd64"}); err == nil {
		t.Error("a name that no registry takes")
	}
	if err := replace(out, func(io.Writer) error { return exec.ErrNotFound }); err == nil {
		t.Error("an error is lost")
	}
	if left, _ := filepath.Glob(out + "*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
