// Package image opens container images, wherever people have them, and says what they are.
//
//	docker://REFERENCE         package registry ─────────────┐
//	docker-daemon:REFERENCE    socket, into a spool ──┐      │
//	FILE, compressed           inflated, into a spool ┤      │
//	FILE                       members by offset ─────┤      ▼
//	DIRECTORY                  files ─────────────────┴─▶ Image: config, digest, layers
//	FILE.sif                   Inspect
//
// Nothing is unpacked: layers are sections of what holds them, and can be read as often as wanted.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/inflate"
	"github.com/sealbatch/sealbatch/internal/layers"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/registry"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ErrFormat says that something is not an image that sealbatch can read.
var ErrFormat = oci.ErrFormat

// What an image's digest is of.
const (
	OfManifest = "manifest"
	OfConfig   = "config" // what Docker calls the image's ID
)

// Image is an image of one platform, whose layers can be read more than once.
type Image struct {
	Name      string // what it is called by default, fit for the name of a file: "jp2a"
	Reference string // what was taken: "docker.io/talinx/jp2a:latest", "oci:/dir:tag", "docker-archive:/file:ref", ...
	Digest    string // "sha256:...", of what DigestOf says
	DigestOf  string // OfManifest, or OfConfig where there is no manifest: archives of docker save
	Platform  string // "linux/amd64", "linux/arm64/v8"
	Path      string // of the file or directory from which it is read; "" if it is not on this machine

	Config      *v1.ConfigFile
	RawConfig   []byte
	RawManifest []byte // nil where there is none
	Base        oci.Base
	Layers      []layers.Layer // lowest first

	Remote *registry.Remote // where it came from, if that is a registry; nil otherwise

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
	Signed       bool   // takes images of registries alone, beside which there may be signatures: ErrUnsignable
	SpoolDir     string // for what cannot be read in place, encrypted; "" is that of spool.New
	Log          *slog.Logger
	Progress     progress.Starter
	Registry     registry.Options // but for those of its fields that are above
}

// ErrUnsignable says that nobody can tell whether an image is signed.
var ErrUnsignable = errors.New("signatures of cosign's lie beside images in registries alone")

// Unsignable is ErrUnsignable of an image that is elsewhere.
func Unsignable(where string) error {
	return fault.New(fault.Usage, fmt.Errorf("%w, and this one is %s", ErrUnsignable, where),
		"take it from the registry where it was signed: docker://HOST/REPOSITORY:TAG")
}

// IsSIF reports whether -b name means a SIF file, which Inspect reads: by what the file holds, or by its name, if
// it cannot be read.
func IsSIF(name string) bool {
	if t, _, err := splitName(name); err != nil || t != viaNothing {
		return false
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return strings.HasSuffix(name, ".sif")
	}
	defer f.Close()
	return beginsSIF(f)
}

// Open opens the image that name means; every kind but SIF, of which IsSIF tells. A name
// without a transport is that of a file; else of an image that the Docker daemon has, if
// there is one; else of one in a registry. What was taken is logged. Errors carry the exit
// code for usage, unless an image is damaged or something cannot be reached, and a hint.
func Open(ctx context.Context, name string, o Options) (*Image, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := oci.ParsePlatform(o.Platform); err != nil {
		return nil, err
	}
	t, rest, err := splitName(name)
	if err != nil {
		return nil, err
	}
	var img *Image
	switch t {
	case viaFile:
		img, err = o.openPath(ctx, rest)
	case viaDaemon:
		img, err = o.openDaemon(ctx, rest)
	case viaRegistry:
		img, err = o.openRegistry(ctx, rest)
	default:
		img, err = o.openBare(ctx, rest)
	}
	var named registryError // whose own words have the name
	if err != nil && !errors.As(err, &named) {
		err = fmt.Errorf("image %s: %w", text.Printable(name), err)
	}
	if err != nil {
		return nil, err
	}
	o.Log.Info("image", "taken", img.Reference, "digest", img.Digest, "of", img.DigestOf, "platform", img.Platform)
	return img, nil
}

// openBare opens what a name without a transport means.
func (o Options) openBare(ctx context.Context, name string) (*Image, error) {
	st, err := os.Stat(name)
	switch {
	case err == nil && (!st.IsDir() || namesFile(name) || hasLayout(name)):
		return o.openLocal(ctx, name, "")
	case err == nil:
		o.Log.Info("a directory that is no image has the image's name, and is left alone", "directory", name)
	case namesFile(name):
		return o.openPath(ctx, name)
	}
	if _, err := registry.ParseReference(name); err != nil {
		return nil, registryError{fmt.Errorf("there is no such file, and %w", err)}
	}
	img, err := o.tryDaemon(ctx, name)
	if img != nil || err != nil {
		return img, err
	}
	return o.openRegistry(ctx, name)
}

func hasLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, layoutFile))
	return err == nil
}

// openPath opens PATH[:TAG], PATH@sha256:... or PATH@INDEX.
func (o Options) openPath(ctx context.Context, rest string) (*Image, error) {
	path, choice, err := splitPath(rest)
	if err != nil {
		return nil, fault.New(fault.Usage, err,
			"name a file or directory on this machine; an image of a registry is docker://HOST/REPOSITORY:TAG")
	}
	return o.openLocal(ctx, path, choice)
}

// openLocal opens the image that choice means of those in the file or directory at path.
func (o Options) openLocal(ctx context.Context, path, choice string) (*Image, error) {
	if o.Signed {
		return nil, Unsignable("in a file or directory on this machine")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := o.files(ctx, abs)
	if err != nil {
		return nil, err
	}
	img, err := o.pick(ctx, f, origin{name: abs, file: true}, choice)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	img.Path = abs
	return img, nil
}

// files opens the file or directory at path.
func (o Options) files(ctx context.Context, path string) (files, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.New(fault.Usage, err, "")
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case st.IsDir():
		f.Close()
		return openDirectory(path)
	case !st.Mode().IsRegular():
		f.Close()
		return nil, fmt.Errorf("%w: it is not a regular file", ErrFormat)
	}
	a, err := o.archive(ctx, f, st.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// archive opens the archive in f, whose first bytes say what it is. The archive closes f, which stays open if it fails.
func (o Options) archive(ctx context.Context, f *os.File, size int64) (*archive, error) {
	var head [512]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case beginsSIF(f):
		return nil, fmt.Errorf("%w: it is a SIF file, and no archive", ErrFormat)
	case n == len(head) && string(head[257:262]) == "ustar":
		return openArchive(f, size, f)
	case inflate.Detect(head[:n]) != inflate.None:
		return o.inflated(ctx, f, size, inflate.Detect(head[:n]))
	}
	if inflate.Encrypted(head[:n]) {
		return nil, fault.New(fault.Usage, fmt.Errorf("%w: it is encrypted with age", ErrFormat),
			"what HPCS prepared is sealed by --from-hpcs FILE --hpcs-key KEY, in the place of -b")
	}
	return nil, fault.New(fault.Usage, fmt.Errorf("%w: it is no tar archive and no SIF file", ErrFormat),
		"docker save, podman save and skopeo copy write archives that can be read, and apptainer build .sif files")
}

// registryError is one of package registry.
type registryError struct{ error }

// Unwrap returns the error itself.
func (e registryError) Unwrap() error { return e.error }

// openRegistry opens an image of a registry.
func (o Options) openRegistry(ctx context.Context, name string) (*Image, error) {
	r := o.Registry
	r.Platform, r.SpoolDir, r.Log, r.Progress = o.Platform, o.SpoolDir, o.Log, o.Progress
	found, err := registry.Open(ctx, name, r)
	if err != nil {
		return nil, registryError{err}
	}
	return &Image{
		Name: repositoryName(found.Reference.Repository()), Reference: found.Reference.String(),
		Digest: found.Digest, DigestOf: OfManifest, Platform: found.Platform,
		Config: found.Config, RawConfig: found.RawConfig, RawManifest: found.RawManifest,
		Base: found.Base(), Layers: found.Layers, Remote: found, close: found.Close,
	}, nil
}
