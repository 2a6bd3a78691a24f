package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// blobs are documents by digest, as a registry holds them.
type blobs map[string][]byte

func (b blobs) fetch(_ context.Context, d v1.Descriptor, _ int64) ([]byte, error) {
	if raw, ok := b[d.Digest.String()]; ok {
		return raw, nil
	}
	return nil, fs.ErrNotExist
}

// put adds a document and returns its descriptor.
func (b blobs) put(kind types.MediaType, doc any) v1.Descriptor {
	raw, ok := doc.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(doc); err != nil {
			panic(err)
		}
	}
	digest := DigestOf(raw)
	b[digest] = raw
	h, err := v1.NewHash(digest)
	if err != nil {
		panic(err)
	}
	return v1.Descriptor{MediaType: kind, Digest: h, Size: int64(len(raw))}
}

var aHash = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}

// image adds an image of one layer, built for platform, and named as such.
func (b blobs) image(platform string, edit ...func(*v1.Manifest)) v1.Descriptor {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		panic(err)
	}
	config := b.put(types.OCIConfigJSON, v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{aHash}},
	})
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config,
		Layers: []v1.Descriptor{{MediaType: types.OCILayer, Digest: aHash, Size: 7}}}
	for _, e := range edit {
		e(&m)
	}
	d := b.put(m.MediaType, m)
	d.Platform = p
	return d
}

// index adds an index of list.
func (b blobs) index(list ...v1.Descriptor) v1.Descriptor {
	return b.put(types.OCIImageIndex, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: list})
}

func bare(d v1.Descriptor) v1.Descriptor {
	d.Platform = nil
	return d
}

func TestResolve(t *testing.T) {
	t.Parallel()
	b := blobs{}
	amd, arm64, v6, v7 := b.image("linux/amd64"), b.image("linux/arm64/v8"), b.image("linux/arm/v6"), b.image("linux/arm/v7")
	amd3, windows := b.image("linux/amd64/v3"), b.image("windows/amd64")
	attestation := b.image("unknown/unknown")
	provenance := b.image("linux/amd64", func(m *v1.Manifest) { m.Annotations = map[string]string{"a": "b"} })
	provenance.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	chart := b.put(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2,
		Config: v1.Descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json",
			Digest: aHash}, Layers: []v1.Descriptor{}})
	all := b.index(attestation, provenance, windows, amd3, arm64, v6, v7, amd)
	docker := b.put(types.DockerManifestList, v1.IndexManifest{SchemaVersion: 2, MediaType: types.DockerManifestList,
		Manifests: []v1.Descriptor{arm64, amd}})
	for name, c := range map[string]struct {
		d        v1.Descriptor
		platform string
		want     v1.Descriptor
		says     string
	}{
		"one image":                   {amd, "", amd, "linux/amd64"},
		"the default of an index":     {all, "", amd, "linux/amd64"},
		"a variant asked for":         {all, "linux/amd64/v3", amd3, "linux/amd64/v3"},
		"an earlier variant will do":  {all, "linux/amd64/v2", amd, "linux/amd64"},
		"arm64 has a variant":         {all, "linux/arm64", arm64, "linux/arm64/v8"},
		"uname's word":                {all, "aarch64", arm64, "linux/arm64/v8"},
		"arm is v7":                   {all, "linux/arm", v7, "linux/arm/v7"},
		"arm v6 does not run v7":      {all, "linux/arm/v6", v6, "linux/arm/v6"},
		"Docker's list":               {docker, "linux/amd64", amd, "linux/amd64"},
		"an index in an index":        {b.index(bare(b.index(amd, arm64))), "arm64", arm64, "linux/arm64/v8"},
		"an index of unsaid platform": {b.index(bare(arm64), bare(amd)), "", amd, "linux/amd64"},
		"an artifact beside it":       {b.index(chart, bare(amd)), "", amd, "linux/amd64"},
		"a reference by digest alone": {v1.Descriptor{Digest: amd.Digest}, "", amd, "linux/amd64"},
	} {
		img, err := Resolve(t.Context(), b.fetch, c.d, c.platform)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if img.Digest != c.want.Digest.String() || img.Platform != c.says || DigestOf(img.RawManifest) != img.Digest ||
			img.Config.OS != "linux" {
			t.Errorf("%s: %s %s, want %s %s", name, img.Digest, img.Platform, c.want.Digest, c.says)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	b := blobs{}
	amd, arm64 := b.image("linux/amd64"), b.image("linux/arm64")
	lies := amd
	lies.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}
	cut := amd
	cut.Size++
	altered := b.put(types.OCIManifestSchema1, []byte(`{"config":{},"layers":[]}`))
	b[altered.Digest.String()] = []byte(`{"config":{},"layers":[ ]}`)
	deep := amd
	for range maxDepth + 1 {
		deep = bare(b.index(deep))
	}
	var many []v1.Descriptor
	for i := range maxBlobs {
		many = append(many, bare(b.image("linux/arm64",
			func(m *v1.Manifest) { m.Annotations = map[string]string{"n": fmt.Sprint(i)} })))
	}
	artifact := func(kind types.MediaType) v1.Descriptor {
		return b.image("linux/amd64", func(m *v1.Manifest) { m.Config.MediaType = kind })
	}
	layer := func(kind types.MediaType) v1.Descriptor {
		return b.image("linux/amd64", func(m *v1.Manifest) { m.Layers[0].MediaType = kind })
	}
	image := func(edit func(*v1.Manifest)) v1.Descriptor { return b.image("linux/amd64", edit) }
	for name, c := range map[string]struct {
		d          v1.Descriptor
		platform   string
		kind       error
		want, hint string
	}{
		"another platform": {arm64, "", ErrPlatform, "none for linux/amd64, only for linux/arm64", "--platform linux/arm64"},
		"other platforms": {b.index(arm64, b.image("linux/s390x")), "", ErrPlatform,
			"only for linux/arm64, linux/s390x", "--platform linux/arm64"},
		"Windows":            {b.image("windows/amd64"), "", ErrPlatform, "only for windows/amd64", ""},
		"Windows, asked for": {amd, "windows/amd64", ErrPlatform, "nodes of a cluster run Linux", ""},
		"no platform":        {amd, "linux/amd64/v1/x", nil, "is no platform", "linux/arm64"},
		"an index that lies": {b.index(lies), "linux/arm64", ErrPlatform,
			"its index says linux/arm64, and the image itself linux/amd64", "--platform"},
		"an empty index":    {b.index(), "", ErrFormat, "no image in it at all", ""},
		"attestations only": {b.index(b.image("unknown/unknown")), "", ErrFormat, "no image in it at all", ""},
		"another size":      {cut, "", ErrDigest, "bytes with digest", ""},
		"another digest":    {altered, "", ErrDigest, "bytes with digest", ""},
		"a huge manifest":   {v1.Descriptor{Digest: aHash, Size: MaxManifest + 1}, "", ErrFormat, "more than the 4.0 MiB", ""},
		"a huge config": {image(func(m *v1.Manifest) { m.Config.Size = MaxConfig + 1 }), "", ErrFormat,
			"more than the 8.0 MiB", ""},
		"nothing there": {v1.Descriptor{Digest: aHash}, "", fs.ErrNotExist, "", ""},
		"sha512": {v1.Descriptor{Digest: v1.Hash{Algorithm: "sha512", Hex: strings.Repeat("ab",
			64)}}, "", nil, "", ""},
		"nested without end":  {deep, "", ErrFormat, "nested more than", ""},
		"too many to look at": {b.index(many...), "", ErrFormat, "more than 64 documents", ""},
		"a chart":             {artifact("application/vnd.cncf.helm.config.v1+json"), "", ErrFormat, "a Helm chart", ""},
		"a SIF in a registry": {artifact("application/vnd.sylabs.sif.config.v1+json"), "", ErrFormat, "apptainer pull", ""},
		"something": {artifact("application/x-something"), "", ErrFormat,
			"an artifact of type application/x-something", ""},
		"an attestation":         {layer("application/vnd.in-toto+json"), "", ErrFormat, "attestation of a build", ""},
		"a signature":            {layer("application/vnd.dev.cosign.simplesigning.v1+json"), "", ErrFormat, "signature of cosign", ""},
		"fewer layers than said": {image(func(m *v1.Manifest) { m.Layers = nil }), "", ErrFormat, "", ""},
		"a layer twice": {image(func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), "",
			ErrFormat, "2 layers, and its config 1", ""},
		"a layer of minus one": {image(func(m *v1.Manifest) { m.Layers[0].Size = -1 }), "", ErrFormat, "below zero", ""},
		"schema 1": {b.put(types.DockerManifestSchema1Signed,
			[]byte(`{"schemaVersion":1,"fsLayers":[]}`)), "", ErrFormat, "schema 1", ""},
		"both": {b.put("", []byte(`{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`)),
			"", ErrFormat, "both", ""},
		"an index named as image": {b.put(types.OCIManifestSchema1, []byte(`{"schemaVersion":2,"manifests":[]}`)), "",
			ErrFormat, "both", ""},
		"named as another": {b.put(types.OCIImageIndex,
			[]byte(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`)), "", ErrFormat, "says", ""},
		"no JSON":             {b.put("", []byte("<html>")), "", ErrFormat, "cannot be read", ""},
		"something behind it": {b.put("", []byte(`{"config":{},"layers":[]}{}`)), "", ErrFormat, "cannot be read", ""},
	} {
		_, err := Resolve(t.Context(), b.fetch, c.d, c.platform)
		switch {
		case err == nil:
			t.Errorf("%s: passes", name)
		case c.kind != nil && !errors.Is(err, c.kind), !strings.Contains(err.Error(), c.want),
			!strings.Contains(fault.Hint(err), c.hint):
			t.Errorf("%s: %v (hint %q)", name, err, fault.Hint(err))
		}
	}
}

// A config that says nothing of its platform is what is wanted; the images of early Dockers were.
func TestPlatformLeftOut(t *testing.T) {
	t.Parallel()
	b := blobs{}
	d := bare(b.image(""))
	for _, want := range []string{"linux/amd64", "linux/arm64"} {
		if img, err := Resolve(t.Context(), b.fetch, d, want); err != nil || img.Platform != want {
			t.Errorf("%+v, %v", img, err)
		}
	}
}

// TestDecodeInWords: what is wrong with a config is said without the names of Go's types and layouts, and with a hint.
func TestDecodeInWords(t *testing.T) {
	t.Parallel()
	for raw, says := range map[string]string{
		"": "it is cut off", `{"config":`: "it is cut off", "{}{}": "not one JSON document", "[]": "it is a JSON array",
		`{"config":{"Entrypoint":"/bin/sh"}}`: "a JSON string stands in its config.Entrypoint",
		`{"created":"yesterday"}`:             `"yesterday" is no time`,
	} {
		_, err := ParseConfig([]byte(raw))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "Go ") ||
			!strings.Contains(fault.Hint(err), "pushed anew") {
			t.Errorf("%s: %v (hint %q)", raw, err, fault.Hint(err))
		}
	}
}

// What is said of the base is taken if it is a reference and a digest.
func TestBase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, digest, wantName, wantDigest string }{
		{"docker.io/library/debian:12", aHash.String(), "docker.io/library/debian:12", aHash.String()},
		{"debian\x1b[2J", "sha256:0", "", ""},
		{"", "", "", ""},
	} {
		img := Image{Manifest: &v1.Manifest{Annotations: map[string]string{
			"org.opencontainers.image.base.name": c.name, "org.opencontainers.image.base.digest": c.digest}}}
		if got := img.Base(); got != (Base{c.wantName, c.wantDigest}) {
			t.Errorf("%q: %+v", c.name, got)
		}
	}
}

// Configs of some tools have uname's words.
func TestPlatformOf(t *testing.T) {
	t.Parallel()
	if got := PlatformOf(&v1.ConfigFile{OS: "Linux", Architecture: "x86_64"}, v1.Platform{}); got != "linux/amd64" {
		t.Error(got)
	}
}

// Whatever a registry says, what comes out is what its digest says and is for the platform.
func FuzzResolve(f *testing.F) {
	b := blobs{}
	b.index(b.image("linux/amd64"), b.image("linux/arm64"))
	for _, raw := range b {
		f.Add(raw)
	}
	f.Add([]byte(`{"schemaVersion":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		docs := blobs{}
		for k, v := range b {
			docs[k] = v
		}
		img, err := Resolve(t.Context(), docs.fetch, docs.put("", raw), "")
		if err == nil && (DigestOf(img.RawManifest) != img.Digest || img.Platform != "linux/amd64" ||
			len(img.Manifest.Layers) != len(img.Config.RootFS.DiffIDs)) {
			t.Errorf("%+v", img)
		}
	})
}
