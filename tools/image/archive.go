package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// target is an image: the Dockerfile has a stage of the same name, which makes the same.
type target struct {
	name       string
	entrypoint []string
	command    []string
	link       bool // the program runs by this name
}

// targets are the images that are published: HPCS's three, results, the key service, and the program.
var targets = []target{
	step("container-prep"), step("data-prep"), step("job-prep"), step("results"),
	{name: "server", entrypoint: []string{"/usr/local/bin/sealbatch", "serve"}, command: []string{"--config", "/etc/sealbatch/server.conf"}},
	{name: "sealbatch", entrypoint: []string{"/usr/local/bin/sealbatch"}},
}

func step(name string) target {
	return target{name: name, entrypoint: []string{"/usr/local/bin/" + name}, link: true}
}

// environment is every image's. The home directory is where compose files mount the user's.
var environment = []string{"PATH=/usr/local/bin", "HOME=/tmp"}

// workDir is where HPCS's compose file mounts the user's directory: what is named by no absolute path outlives the container.
const workDir = "/tmp"

// labels returns what an image says of itself (github.com/opencontainers/image-spec/blob/main/annotations.md).
func labels(target, version string) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":    target,
		"org.opencontainers.image.source":   "https://github.com/sealbatch/sealbatch",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	if version != "" {
		l["org.opencontainers.image.version"] = version
	}
	return l
}

func (t target) image(l v1.Layer, p v1.Platform, created time.Time, labels map[string]string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "tools/image"}})
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = p.OS, p.Architecture, v1.Time{Time: created}
	c.Config = v1.Config{Entrypoint: t.entrypoint, Cmd: t.command, Env: environment, WorkingDir: workDir, Labels: labels}
	if t.name == "server" {
		c.Config.ExposedPorts = map[string]struct{}{"8443/tcp": {}}
	}
	return mutate.ConfigFile(img, c)
}

// named is an image under the name that it is published by.
type named struct {
	ref name.Tag
	img v1.Image
}

// saved is an image in the manifest.json of docker save.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// archive is an OCI image layout in a tar stream (github.com/opencontainers/image-spec/blob/main/image-layout.md), with
// the manifest.json by which docker load finds the images: the shape that docker save has since Docker 25.
type archive struct {
	w     *tar.Writer
	when  time.Time
	index v1.IndexManifest
	saved []saved
	have  map[string]bool
}

// writeArchive writes the images, in their order, each blob once.
func writeArchive(w io.Writer, images []named, created time.Time) error {
	a := archive{w: tar.NewWriter(w), when: created, have: map[string]bool{},
		index: v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, n := range images {
		if err := a.add(n); err != nil {
			return err
		}
	}
	if err := a.json("index.json", a.index); err != nil {
		return err
	}
	if err := a.json("manifest.json", a.saved); err != nil {
		return err
	}
	return a.w.Close()
}

func (a *archive) json(name string, what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return a.file(name, b)
}

func (a *archive) file(name string, content []byte) error {
	h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(content)), ModTime: a.when, Format: tar.FormatUSTAR}
	if err := a.w.WriteHeader(h); err != nil {
		return err
	}
	_, err := a.w.Write(content)
	return err
}

// add writes an image's blobs and enters it into both indexes.
func (a *archive) add(n named) error {
	raw, err := n.img.RawManifest()
	if err != nil {
		return err
	}
	config, err := n.img.RawConfigFile()
	if err != nil {
		return err
	}
	layers, err := n.img.Layers()
	if err != nil {
		return err
	}
	s := saved{RepoTags: []string{n.ref.String()}}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		path, _, err := a.blob(b)
		if err != nil {
			return err
		}
		s.Layers = append(s.Layers, path)
	}
	if s.Config, _, err = a.blob(config); err != nil {
		return err
	}
	_, digest, err := a.blob(raw)
	if err != nil {
		return err
	}
	c, err := n.img.ConfigFile()
	if err != nil {
		return err
	}
	a.saved = append(a.saved, s)
	a.index.Manifests = append(a.index.Manifests, v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(raw)), Platform: &v1.Platform{OS: c.OS, Architecture: c.Architecture},
		Annotations: map[string]string{"io.containerd.image.name": n.ref.String(), "org.opencontainers.image.ref.name": n.ref.String()},
	})
	return nil
}

// blob writes content under its digest, if it is not there, and returns its path.
func (a *archive) blob(content []byte) (string, v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	path := "blobs/sha256/" + h.Hex
	if err != nil || a.have[path] {
		return path, h, err
	}
	a.have[path] = true
	return path, h, a.file(path, content)
}
