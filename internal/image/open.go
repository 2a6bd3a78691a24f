package image

import (
	"context"
	"errors"
	"log/slog"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/progress"
)

// What an image's digest is of.
const (
	OfManifest = "manifest"
	OfConfig   = "config" // what Docker calls the image's ID
)

// Image is an image of one platform, whose layers can be read more than once.
type Image struct {
	Name      string // what it is called by default, fit for the name of a file: "jp2a"
	Reference string // what was taken: "docker.io/talinx/jp2a:latest", "oci:/dir:tag", "docker-archive:/file:ref", "docker-daemon:ref"
	Digest    string // "sha256:...", of what DigestOf says
	DigestOf  string // OfManifest, or OfConfig where there is no manifest: archives of docker save
	Platform  string // "linux/amd64", "linux/arm64/v8"

	Config      *v1.ConfigFile
	RawConfig   []byte
	RawManifest []byte // nil where there is none
	Base        oci.Base
	Layers      []layers.Layer // lowest first

	close func() error
}

// Close lets go of the files from which the layers are read.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Options say where images come from. The zero value is of use.
type Options struct {
	Platform     string // "" is oci.DefaultPlatform
	DockerSocket string // path of the Docker daemon's; "" is that of DOCKER_HOST or the usual one, where there is one
	Log          *slog.Logger
	Progress     progress.Starter
}

// Open opens the image that name means; every kind but SIF, of which IsSIF tells.
func Open(ctx context.Context, name string, o Options) (*Image, error) {
	return nil, errors.ErrUnsupported
}
