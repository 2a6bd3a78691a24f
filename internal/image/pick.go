package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// origin is what files were found in.
type origin struct {
	name string // the absolute path, or what the daemon was asked for
	file bool
}

// reference returns what was taken: the kind of archive, its name and the choice in it.
func (s origin) reference(kind, choice string) string {
	if !s.file {
		return "docker-daemon:" + s.name
	}
	return plain(kind + ":" + s.name + choice)
}

// maxReference bounds what is said of where an image came from, in bytes.
const maxReference = 2048

// plain returns s as it can stand in documents: names of files, and names in archives, may be anything.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if text.Steers(r) {
			return '?'
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), maxReference)], "")
}

// pick opens the image that choice means of those in f. The image closes f, which stays open if it fails.
func (o Options) pick(ctx context.Context, f files, from origin, choice string) (*Image, error) {
	var img *Image
	var err error
	switch {
	case isLayout(f):
		img, err = o.pickLayout(ctx, layout{f}, from, choice)
	default:
		img, err = o.pickDocker(dockerArchive{f}, from, choice)
	}
	if err != nil {
		return nil, err
	}
	img.close = f.Close
	return img, nil
}

// pickLayout opens an image of an OCI layout.
func (o Options) pickLayout(ctx context.Context, l layout, from origin, choice string) (*Image, error) {
	found, chosen, err := l.image(ctx, choice, o.Platform)
	if err != nil {
		return nil, err
	}
	kind := "oci-archive"
	if _, ok := l.files.(*directory); ok {
		kind = "oci"
	} else if _, ok := has(l, dockerManifest); ok {
		kind = "docker-archive"
	}
	return &Image{
		Name: from.imageName(choice), Reference: from.reference(kind, chosen),
		Digest: found.Digest, DigestOf: OfManifest, Platform: found.Platform,
		Config: found.Config, RawConfig: found.RawConfig, RawManifest: found.RawManifest,
		Base: found.Base(), Layers: found.Layers(l.layer),
	}, nil
}

// pickDocker opens an image of an archive of docker save, if it is one.
func (o Options) pickDocker(a dockerArchive, from origin, choice string) (*Image, error) {
	if _, ok := has(a, dockerManifest); !ok {
		return nil, notAnArchive(a.files)
	}
	if _, ok := has(a, "version"); ok { // containers/image, directory/directory_dest.go
		return nil, fault.New(fault.Usage, fmt.Errorf("%w: it is what skopeo and podman call dir: and docker-dir", ErrFormat),
			"skopeo copy dir:"+text.Printable(from.name)+" oci-archive:FILE makes a file, which -b takes")
	}
	img, chosen, err := a.image(choice, o.Platform)
	if err != nil {
		return nil, err
	}
	img.Name, img.Reference = from.imageName(choice), from.reference("docker-archive", chosen)
	return img, nil
}

// imageName returns a name for what choice means: that of the repository if it names one, else that of the file.
func (s origin) imageName(choice string) string {
	ref, ok := strings.CutPrefix(choice, ":")
	switch {
	case !s.file:
		return repositoryName(s.name)
	case ok && strings.ContainsAny(ref, ":/"):
		return repositoryName(ref)
	}
	return fileName(s.name)
}

// notAnArchive says what files are that hold no image.
func notAnArchive(f files) error {
	const what = "it holds neither an OCI layout (" + layoutFile + ", " + indexFile + ") nor what docker save writes (" +
		dockerManifest + ")"
	if _, ok := f.(*directory); ok {
		return fault.New(fault.Usage, fmt.Errorf("%w: %s", ErrFormat, what),
			"if it is a sandbox, make a .sif file of it: apptainer build IMAGE.sif DIRECTORY")
	}
	a, _ := f.(*archive)
	switch _, old := has(f, "repositories"); {
	case old:
		return fault.New(fault.Usage, fmt.Errorf("%w: it was written by a Docker before 1.10", ErrFormat),
			"docker load it, and docker save it with a Docker of today")
	case a != nil && a.looksLike("etc", "usr"):
		return fault.New(fault.Usage,
			fmt.Errorf("%w: it is a container's file system without its settings, as docker export writes it", ErrFormat),
			"docker commit the container, then docker save the image")
	}
	return fmt.Errorf("%w: %s", ErrFormat, what)
}
