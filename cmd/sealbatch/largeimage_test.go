package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// largeImage is an image that is written to an OCI layout, layer by layer.
type largeImage struct {
	t      *testing.T
	dir    string
	random io.Reader // always the same
	size   int64
	layers []v1.Descriptor
}

func newLargeImage(t *testing.T, dir string) *largeImage {
	im := &largeImage{t: t, dir: dir, random: rand.NewChaCha8([32]byte{})}
	im.check(os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	return im
}

func (im *largeImage) check(err error) {
	im.t.Helper()
	if err != nil {
		im.t.Fatal(err)
	}
}

// blob writes what fill does.
func (im *largeImage) blob(kind types.MediaType, fill func(io.Writer)) v1.Descriptor {
	im.t.Helper()
	f, err := os.CreateTemp(im.dir, "blob-")
	im.check(err)
	defer f.Close()
	sum := sha256.New()
	fill(io.MultiWriter(f, sum))
	digest := hex.EncodeToString(sum.Sum(nil))
	size, err := f.Seek(0, io.SeekCurrent)
	im.check(err)
	im.check(os.Rename(f.Name(), filepath.Join(im.dir, "blobs", "sha256", digest)))
	im.size += size
	return v1.Descriptor{MediaType: kind, Size: size, Digest: v1.Hash{Algorithm: "sha256", Hex: digest}}
}

// layer adds a layer that is not compressed.
func (im *largeImage) layer(fill func(*tar.Writer)) {
	im.t.Helper()
	im.layers = append(im.layers, im.blob(types.OCIUncompressedLayer, func(out io.Writer) {
		w := tar.NewWriter(out)
		fill(w)
		im.check(w.Close())
	}))
}

func (im *largeImage) file(w *tar.Writer, name string, r io.Reader, size int64) {
	im.t.Helper()
	im.check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}))
	_, err := io.CopyN(w, r, size)
	im.check(err)
}

func (im *largeImage) text(w *tar.Writer, name, content string) {
	im.t.Helper()
	im.file(w, name, strings.NewReader(content), int64(len(content)))
}

func (im *largeImage) json(kind types.MediaType, v any) v1.Descriptor {
	im.t.Helper()
	return im.blob(kind, func(w io.Writer) { im.check(json.NewEncoder(w).Encode(v)) })
}

// write ends the layout, with the image as the only one.
func (im *largeImage) write() {
	im.t.Helper()
	config := v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range im.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	manifest := im.json(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: im.json(types.OCIConfigJSON, config), Layers: im.layers})
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{manifest}})
	im.check(err)
	im.check(os.WriteFile(filepath.Join(im.dir, "index.json"), index, 0o644))
	im.check(os.WriteFile(filepath.Join(im.dir, "oci-layout"), []byte(`{"imageLayoutVersion": "1.0.0"}`), 0o644))
}
