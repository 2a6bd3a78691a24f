package oci

import (
	"context"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/layers"
)

// Open returns the blob that d describes, as stored.
type Open func(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)

// Layers returns the image's layers, lowest first, which open reads.
func (i *Image) Layers(open Open) []layers.Layer {
	out := make([]layers.Layer, len(i.Manifest.Layers))
	for n, d := range i.Manifest.Layers {
		out[n] = layers.Layer{
			Digest: d.Digest.String(), DiffID: i.Config.RootFS.DiffIDs[n].String(), MediaType: string(d.MediaType), Size: d.Size,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, d) },
		}
	}
	return out
}

// Base is the image on which another was built, by the annotations of the OCI's image
// specification; empty where they are not there.
type Base struct {
	Name   string // "docker.io/library/debian:12"
	Digest string // "sha256:..."
}

// Base returns what the manifest says of the image's base. What is no reference or no digest is left out.
func (i *Image) Base() Base {
	const prefix = "org.opencontainers.image.base."
	b := Base{Name: i.Manifest.Annotations[prefix+"name"], Digest: i.Manifest.Annotations[prefix+"digest"]}
	if _, err := name.ParseReference(b.Name); err != nil {
		b.Name = ""
	}
	if _, err := v1.NewHash(b.Digest); err != nil {
		b.Digest = ""
	}
	return b
}
