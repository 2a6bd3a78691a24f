// Package containerprep is the workflow of container-prep: a container image
// becomes a sealed volume on scratch, its key lies in the key service, and a
// signed info file tells job-prep about it.
package containerprep

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
)

// Options are container-prep's flags.
type Options struct {
	publish.Target        // Name is the image's
	Image          string // what -b names: a .sif file
	OutputDir      string // local directory of the sealed volume, if SealedPath is empty
}

// Run prepares one image.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	info, err := image.Inspect(o.Image)
	if err != nil {
		return publish.Published{}, err
	}
	if o.Image, err = filepath.Abs(o.Image); err != nil {
		return publish.Published{}, err
	}
	if d.Log != nil {
		d.Log.Info("image", "format", info.Format, "architecture", info.Arch)
	}
	return publish.Run(ctx, d, o.request())
}

func (o Options) request() publish.Request {
	t := o.Target
	t.Name = strings.TrimSuffix(filepath.Base(o.Image), ".sif")
	if t.SealedPath == "" {
		t.SealedPath = filepath.Join(o.OutputDir, "encrypted_prepared_"+t.Name+".sif")
	}
	return publish.Request{
		Target: t, Kind: manifest.KindImage,
		Input: source.Input{Paths: []string{o.Image}, AsFile: true, FileName: manifest.ImageFile},
	}
}
