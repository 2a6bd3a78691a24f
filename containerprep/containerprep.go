// Package containerprep is the workflow of container-prep: a container image
// becomes a sealed volume on scratch, its key lies in the key service, and a
// signed info file tells job-prep about it.
package containerprep

import (
	"context"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/source"
)

// ImageFile is the one file in an image's volume.
const ImageFile = "image.sif"

// Options are container-prep's flags.
type Options struct {
	Image      string // what -b names: a .sif file
	OutputDir  string // local directory of the sealed volume, if DataPath is empty
	DataPath   string // local path of the sealed volume
	AtRest     string // directory on the computing site
	Policy     manifest.Policy
	Recipients []age.Recipient
	Readers    []string // the recipients as text
	ServiceURL string
}

// Run prepares one image.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	info, err := image.Inspect(o.Image)
	if err != nil {
		return publish.Published{}, err
	}
	if d.Log != nil {
		d.Log.Info("image", "format", info.Format, "architecture", info.Arch)
	}
	return publish.Run(ctx, d, o.request())
}

func (o Options) request() publish.Request {
	name := strings.TrimSuffix(filepath.Base(o.Image), ".sif")
	if o.DataPath == "" {
		o.DataPath = filepath.Join(o.OutputDir, "encrypted_prepared_"+name+".sif")
	}
	return publish.Request{
		Input: source.Input{Paths: []string{o.Image}, AsFile: true, FileName: ImageFile}, Kind: manifest.KindImage, Name: name, SealedPath: o.DataPath, RemoteDir: o.AtRest,
		Policy: o.Policy, Recipients: o.Recipients, Readers: o.Readers, ServiceURL: o.ServiceURL,
	}
}
