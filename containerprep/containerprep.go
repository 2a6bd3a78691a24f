// Package containerprep is the workflow of container-prep: a container image
// becomes a sealed volume on scratch, its key lies in the key service, and a
// signed info file tells job-prep about it.
package containerprep

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sifbuild"
	"github.com/sealbatch/sealbatch/internal/source"
)

// Options are container-prep's flags.
type Options struct {
	publish.Target        // Name is the image's
	Image          string // what -b names: a .sif file, or what image.Open opens
	OutputDir      string // local directory of the sealed volume, if SealedPath is empty
	Platform       string // of an image that there is for several: "linux/arm64"; "" for linux/amd64
	DockerSocket   string // path of the Docker daemon's; "" for the usual one
}

// Run prepares one image.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	if image.IsSIF(o.Image) {
		return o.sif(ctx, d)
	}
	img, err := image.Open(ctx, o.Image, image.Options{
		Platform: o.Platform, DockerSocket: o.DockerSocket, Log: d.Log, Progress: d.Progress,
	})
	if err != nil {
		return publish.Published{}, err
	}
	defer img.Close()
	described, err := describe(img)
	if err != nil {
		return publish.Published{}, err
	}
	r := o.request(img.Name, sifbuild.Source{Image: img, FileName: manifest.ImageFile, Log: d.Log})
	r.Image = described
	return publish.Run(ctx, d, r)
}

// sif prepares a SIF file as it is.
func (o Options) sif(ctx context.Context, d publish.Deps) (publish.Published, error) {
	info, err := image.Inspect(o.Image)
	if err != nil {
		return publish.Published{}, err
	}
	if o.Image, err = filepath.Abs(o.Image); err != nil {
		return publish.Published{}, err
	}
	if err := oci.CheckPlatform(o.Platform, "linux/"+info.Arch); o.Platform != "" && err != nil {
		return publish.Published{}, fault.New(fault.Usage, fmt.Errorf("image %s: %w", o.Image, err), "leave --platform out, or name another file")
	}
	in := sifFile{Input: source.Input{Paths: []string{o.Image}, AsFile: true, FileName: manifest.ImageFile}}
	described := &manifest.Image{Reference: filepath.Base(o.Image), Of: manifest.OfFile, Platform: "linux/" + info.Arch}
	if described.Digest, err = in.digest(ctx, o.Image); err != nil {
		return publish.Published{}, err
	}
	if d.Log != nil {
		d.Log.Info("image", "taken", o.Image, "digest", described.Digest, "of", manifest.OfFile, "platform", described.Platform)
	}
	r := o.request(strings.TrimSuffix(filepath.Base(o.Image), ".sif"), in)
	r.Image = described
	return publish.Run(ctx, d, r)
}

// request asks for the sealing of in, an image called name.
func (o Options) request(name string, in publish.Input) publish.Request {
	t := o.Target
	t.Name = name
	if t.SealedPath == "" {
		t.SealedPath = filepath.Join(o.OutputDir, "encrypted_prepared_"+t.Name+".sif")
	}
	return publish.Request{Target: t, Kind: manifest.KindImage, Input: in}
}

// describe returns what the info file says of an image. Others read that: of an archive on this machine it has the name
// alone.
func describe(img *image.Image) (*manifest.Image, error) {
	digest, err := manifest.ParseDigest(img.Digest)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Reference, err)
	}
	reference := img.Reference
	if img.Path != "" {
		reference = strings.Replace(reference, img.Path, filepath.Base(img.Path), 1)
	}
	out := &manifest.Image{
		Reference: reference, Digest: digest, Of: manifest.ImageDigestOf(img.DigestOf), Platform: img.Platform,
	}
	if b := img.Base; b.Name != "" || b.Digest != "" {
		out.Base = &manifest.BaseImage{Reference: b.Name, Digest: b.Digest}
	}
	return out, nil
}
