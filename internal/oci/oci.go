// Package oci finds the one image that a digest and a platform mean, whatever
// holds it: a registry, a directory, an archive.
//
//	index (or Docker's manifest list)     one descriptor an image, with its platform
//	 |- manifest linux/amd64              the digest that names the image
//	 |   |- config                        environment, entry point, diff ids of the layers
//	 |   '- layers                        compressed tars, lowest first
//	 |- index                             indexes nest
//	 '- manifest unknown/unknown          BuildKit's attestations: no image
//
// The formats are those of the OCI's image specification 1.1
// (github.com/opencontainers/image-spec) and Docker's manifests version 2, schema 2.
// What is read is held against the digest and size that name it before it is parsed,
// and is bounded.
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Bounds of what is held in memory, in bytes. Registries refuse larger manifests.
const (
	MaxManifest = 4 << 20
	MaxConfig   = 8 << 20
)

// Bounds of one image. Docker's own is 127 layers.
const (
	maxLayers = 1000
	maxDepth  = 4  // of indexes in indexes
	maxBlobs  = 64 // manifests and configs that are read to find one image
)

// Errors that callers tell apart.
var (
	ErrDigest = fault.Sentinel(fault.Integrity, "it is not what its digest says")
	ErrFormat = fault.New(fault.Usage, errors.New("not an image that sealbatch can read"),
		"-b takes images as Docker, Podman, skopeo and Apptainer write them: see that it is one, or have it written or pushed anew")
	ErrPlatform = fault.Sentinel(fault.Usage, "no image of the wanted platform")
)

// errTooMany ends a search that an index made to be searched for long.
var errTooMany = fmt.Errorf("%w: finding its platform takes more than %d documents", ErrFormat, maxBlobs)

// Fetch returns the manifest, index or config that d describes, of at most limit bytes. It
// need not check them.
type Fetch func(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error)

// Image is one image of one platform.
type Image struct {
	Digest      string // of the manifest: "sha256:..."
	Platform    string // "linux/amd64", "linux/arm64/v8"
	RawManifest []byte
	Manifest    *v1.Manifest
	RawConfig   []byte
	Config      *v1.ConfigFile
}

// Resolve follows d, a manifest or an index, to the image for platform, "" being
// DefaultPlatform. Errors wrap ErrDigest, ErrFormat, ErrPlatform, or are fetch's.
func Resolve(ctx context.Context, fetch Fetch, d v1.Descriptor, platform string) (*Image, error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	r := &resolver{fetch: fetch, want: want}
	found, err := r.follow(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	best := r.best(found)
	if best == nil {
		return nil, r.noneOf(found)
	}
	return best, nil
}

// resolver looks for one image.
type resolver struct {
	fetch Fetch
	want  v1.Platform
	blobs int
}

// read returns the document that d names, checked.
func (r *resolver) read(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if r.blobs++; r.blobs > maxBlobs {
		return nil, errTooMany
	}
	if d.Size > limit {
		return nil, fmt.Errorf("%w: %s has %s, more than the %s that such a document may have",
			ErrFormat, d.Digest, text.Size(d.Size), text.Size(limit))
	}
	b, err := r.fetch(ctx, d, limit)
	if err != nil {
		return nil, err
	}
	return b, Check(b, d)
}

// Check holds b against the digest and the size in d; a size of zero or less is
// none, as of a reference by digest alone.
func Check(b []byte, d v1.Descriptor) error {
	if d.Digest.Algorithm != "sha256" {
		return fmt.Errorf("%w: its digest is of kind %s, and sha256 alone is read", ErrFormat, text.Printable(d.Digest.Algorithm))
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(b)); sum != d.Digest.Hex || (d.Size > 0 && d.Size != int64(len(b))) {
		return fmt.Errorf("%w: %s is %d bytes with digest sha256:%s", ErrDigest, d.Digest, len(b), sum)
	}
	return nil
}

// follow returns the images that d leads to, of which the configs are read where the
// index does not say their platform.
func (r *resolver) follow(ctx context.Context, d v1.Descriptor, depth int) ([]*Image, error) {
	raw, err := r.read(ctx, d, MaxManifest)
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(raw, d.MediaType)
	if err != nil {
		return nil, err
	}
	if kind == image {
		img, err := r.image(ctx, raw, d)
		if err != nil {
			return nil, err
		}
		return []*Image{img}, nil
	}
	if depth >= maxDepth {
		return nil, fmt.Errorf("%w: its indexes are nested more than %d deep", ErrFormat, maxDepth)
	}
	var index v1.IndexManifest
	if err := decode(raw, &index, "index"); err != nil {
		return nil, err
	}
	return r.choose(ctx, index.Manifests, depth)
}

// choose follows those of list that may be what is wanted.
func (r *resolver) choose(ctx context.Context, list []v1.Descriptor, depth int) ([]*Image, error) {
	var said, open []v1.Descriptor // with and without a platform
	var others []*Image
	for _, d := range list {
		switch {
		case Attestation(d) || (d.ArtifactType != "" && !types.MediaType(d.ArtifactType).IsConfig()): // ko and crane name images so
		case d.Platform == nil || d.Platform.OS == "" || d.MediaType.IsIndex():
			open = append(open, d)
		case rank(r.want, *d.Platform) > 0:
			said = append(said, d)
		default:
			others = append(others, &Image{Platform: platformString(*d.Platform)})
		}
	}
	if d := bestOf(r.want, said); d != nil {
		return r.followSaid(ctx, *d, depth)
	}
	var refused error
	for _, d := range open {
		images, err := r.follow(ctx, d, depth+1)
		if errors.Is(err, ErrFormat) && !errors.Is(err, errTooMany) {
			refused = err // an artifact beside the images
			continue
		}
		if err != nil {
			return nil, err
		}
		others = append(others, images...)
	}
	if len(others) == 0 && refused != nil {
		return nil, refused
	}
	return others, nil
}

// followSaid follows d, of which an index says that it is what is wanted, and does not
// take the index's word for it.
func (r *resolver) followSaid(ctx context.Context, d v1.Descriptor, depth int) ([]*Image, error) {
	images, err := r.follow(ctx, d, depth+1)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		p, err := ParsePlatform(img.Platform)
		if err != nil || p.Architecture != d.Platform.Architecture || p.OS != d.Platform.OS {
			return nil, fault.New(fault.Usage, fmt.Errorf("%w: its index says %s, and the image itself %s", ErrPlatform,
				platformString(*d.Platform), text.Printable(img.Platform)),
				"have it built anew, or name the image by its digest, "+d.Digest.String()+", with --platform")
		}
		if d.Platform.Variant != "" {
			img.Platform = platformString(*d.Platform)
		}
	}
	return images, nil
}

// Attestation reports whether d describes what BuildKit says of an image, and no image.
func Attestation(d v1.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" ||
		(d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown")
}

// best returns the image that fits best, of those whose manifest was read.
func (r *resolver) best(images []*Image) *Image {
	var best *Image
	top := 0
	for _, img := range images {
		p, err := ParsePlatform(img.Platform)
		if n := rank(r.want, p); img.Manifest != nil && err == nil && n > top {
			best, top = img, n
		}
	}
	return best
}

// noneOf says which platforms there are instead.
func (r *resolver) noneOf(images []*Image) error {
	var have []string
	for _, img := range images {
		have = append(have, text.Printable(img.Platform))
	}
	return noPlatform(r.want, have)
}

// image reads the config of the manifest raw.
func (r *resolver) image(ctx context.Context, raw []byte, d v1.Descriptor) (*Image, error) {
	img := &Image{Digest: d.Digest.String(), RawManifest: raw, Manifest: new(v1.Manifest)}
	err := decode(raw, img.Manifest, "manifest")
	if err != nil {
		return nil, err
	}
	if err := checkManifest(img.Manifest); err != nil {
		return nil, err
	}
	if img.RawConfig, err = r.read(ctx, img.Manifest.Config, MaxConfig); err != nil {
		return nil, err
	}
	if img.Config, err = ParseConfig(img.RawConfig); err != nil {
		return nil, err
	}
	if have, want := len(img.Config.RootFS.DiffIDs), len(img.Manifest.Layers); have != want {
		return nil, fmt.Errorf("%w: its manifest has %d layers, and its config %d", ErrFormat, want, have)
	}
	img.Platform = PlatformOf(img.Config, r.want)
	return img, nil
}

// ParseConfig reads an image's config.
func ParseConfig(raw []byte) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := decode(raw, &c, "config"); err != nil {
		return nil, err
	}
	if n := len(c.RootFS.DiffIDs); n > maxLayers {
		return nil, fmt.Errorf("%w: it has %d layers; %d are the most", ErrFormat, n, maxLayers)
	}
	return &c, nil
}

// decode parses one JSON document.
func decode(raw []byte, v any, what string) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: its %s cannot be read: %.200s", ErrFormat, what, text.Printable(inWords(err)))
	}
	return nil
}

// inWords returns what is wrong with a JSON document, without the names of Go's types.
func inWords(err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var at *time.ParseError
	switch {
	case errors.As(err, &syntax):
		return "it is cut off, or not one JSON document"
	case errors.As(err, &kind) && kind.Field == "":
		return "it is a JSON " + kind.Value
	case errors.As(err, &kind):
		return fmt.Sprintf("a JSON %s stands in its %s", kind.Value, kind.Field)
	case errors.As(err, &at):
		return fmt.Sprintf("%q is no time as RFC 3339 has it", at.Value)
	}
	return err.Error()
}

// checkManifest refuses what is no image, and layers that cannot be had.
func checkManifest(m *v1.Manifest) error {
	if what := artifact(m); what != "" {
		return fmt.Errorf("%w: it is no container image but %s", ErrFormat, what)
	}
	if n := len(m.Layers); n > maxLayers {
		return fmt.Errorf("%w: it has %d layers; %d are the most", ErrFormat, n, maxLayers)
	}
	for _, l := range m.Layers {
		if l.Size < 0 || l.Digest.Algorithm != "sha256" {
			return fmt.Errorf("%w: layer %s has no sha256 digest or a size below zero", ErrFormat, l.Digest)
		}
	}
	return nil
}

// artifacts are what registries hold besides images, by the media type of their config
// or their artifact type.
var artifacts = map[string]string{
	"application/vnd.cncf.helm.config.v1+json":   "a Helm chart",
	"application/vnd.sylabs.sif.config.v1+json":  "a SIF file: apptainer pull fetches it, and -b takes the .sif",
	"application/vnd.sylabs.sif.config.v1":       "a SIF file: apptainer pull fetches it, and -b takes the .sif",
	"application/vnd.wasm.config.v0+json":        "a WebAssembly module",
	"application/vnd.wasm.config.v1+json":        "a WebAssembly module",
	"application/vnd.docker.plugin.v1+json":      "a plugin of Docker's",
	"application/vnd.buildkit.cacheconfig.v0":    "a build cache of BuildKit's",
	"application/vnd.dev.cosign.artifact.sig.v1": "a signature of cosign's",
}

// artifact returns in words what m is, if it is no image, and "" if it is one.
func artifact(m *v1.Manifest) string {
	kind := string(m.Config.MediaType)
	if m.ArtifactType != "" && !m.Config.MediaType.IsConfig() {
		kind = m.ArtifactType
	}
	for _, l := range m.Layers {
		switch {
		case strings.HasPrefix(string(l.MediaType), "application/vnd.dev.cosign."):
			return "a signature of cosign's"
		case l.MediaType == "application/vnd.in-toto+json":
			return "an attestation of a build"
		}
	}
	switch what, known := artifacts[kind]; {
	case known:
		return what
	case m.Config.MediaType.IsConfig() || kind == "":
		return ""
	}
	return fmt.Sprintf("an artifact of type %.100s", text.Printable(kind))
}

// kind is what a document is.
type kind int

const (
	image kind = iota
	index
)

// kindOf tells an image's manifest from an index: by what the document says of itself,
// by who names it, and by its fields, which must not contradict each other
// (CVE-2021-41190).
func kindOf(raw []byte, named types.MediaType) (kind, error) {
	var probe struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := decode(raw, &probe, "manifest"); err != nil {
		return 0, err
	}
	says := probe.MediaType
	isIndex, isImage := probe.Manifests != nil, probe.Config != nil || probe.Layers != nil
	switch {
	case probe.SchemaVersion == 1 || probe.FSLayers != nil || says.IsSchema1() || named.IsSchema1():
		return 0, fmt.Errorf("%w: its manifest is of Docker's schema 1, which registries gave up in 2017: "+
			"push it anew with a Docker of today", ErrFormat)
	case says != "" && named != "" && says != named && known(named):
		return 0, fmt.Errorf("%w: it is named as %s and says %s of itself",
			ErrFormat, text.Printable(string(named)), text.Printable(string(says)))
	case isIndex == isImage, isImage && (says.IsIndex() || named.IsIndex()), isIndex && (says.IsImage() || named.IsImage()):
		return 0, fmt.Errorf("%w: it is neither a manifest nor an index, or says that it is both", ErrFormat)
	case isIndex:
		return index, nil
	}
	return image, nil
}

func known(m types.MediaType) bool { return m.IsImage() || m.IsIndex() }

// DigestOf returns the digest of b: "sha256:...".
func DigestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
