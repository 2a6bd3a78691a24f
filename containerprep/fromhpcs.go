package containerprep

import (
	"context"
	"errors"
	"path"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/publish"
)

// fromHPCS prepares an image that HPCS prepared before: it is decrypted while it is sealed. It is read twice, as the info file has
// its digest.
func (p preparation) fromHPCS(ctx context.Context) (publish.Published, error) {
	if p.key != nil {
		return publish.Published{}, fault.New(fault.Usage, image.Unsignable("a file of HPCS's"), "leave --require-signature out")
	}
	a, err := p.Options.HPCS.Open(p.FS, p.Log)
	if err != nil {
		return publish.Published{}, err
	}
	info, err := inspect(a)
	if err != nil {
		return publish.Published{}, err
	}
	if err := oci.CheckPlatform(p.Platform, "linux/"+info.Arch); p.Platform != "" && err != nil {
		return publish.Published{}, fault.New(fault.Usage, err, "leave --platform out, or name another file")
	}
	p.Reads = append(p.Reads[:len(p.Reads):len(p.Reads)], p.Options.HPCS.KeyFile)
	described := &manifest.Image{Reference: path.Base(a.Path), Of: manifest.OfFile, Platform: "linux/" + info.Arch}
	if info.HPCS {
		described.Prepared = manifest.PreparedHPCS
	}
	r := p.request(hpcs.Name(a.Path), hpcs.Image{Artefact: a, FileName: manifest.ImageFile}, described)
	r.Hash = func(ctx context.Context) (manifest.Digest, error) {
		s, err := a.Stream(ctx)
		if err != nil {
			return manifest.Digest{}, err
		}
		return p.hash(ctx, s, path.Base(a.Path), a.Plain)
	}
	return publish.Run(ctx, p.Deps, r)
}

// inspect reads what the image in a says of itself.
func inspect(a *hpcs.Artefact) (image.Info, error) {
	content, file, err := a.Content()
	if err != nil {
		return image.Info{}, err
	}
	info, err := image.InspectAt(content, a.Plain, a.Shown)
	return info, errors.Join(err, file.Close())
}
