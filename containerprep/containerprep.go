// Package containerprep is the workflow of container-prep: a container image
// becomes a sealed volume on scratch, its key lies in the key service, and a
// signed info file tells job-prep about it.
package containerprep

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/cosign"
	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/image"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/registry"
	"github.com/sealbatch/sealbatch/internal/sbom"
	"github.com/sealbatch/sealbatch/internal/sifbuild"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/squashfs"
	"github.com/sealbatch/sealbatch/internal/text"
)

// Options are container-prep's flags.
type Options struct {
	publish.Target            // Name is the image's
	Image          string     // what -b names: a .sif file, or what image.Open opens
	HPCS           hpcs.Named // what HPCS prepared, in place of Image
	OutputDir      string     // local directory of the sealed volume, if SealedPath is empty
	Platform       string     // of an image that there is for several: "linux/arm64"; "" for linux/amd64
	DockerSocket   string     // path of the Docker daemon's; "" for the usual one
	Compression    string     // of the SIF file that is made: "gzip", which is "", or "zstd"
	SignatureKey   string     // file of the public key by which the image has to be signed; "" for none
	SBOM           string     // file of the bill of materials that is sealed beside the image; "" for none
	Mirrors        []string   // of registries, as registry.ParseMirror reads them
}

var compressions = map[string]squashfs.Compression{"": squashfs.Gzip, "gzip": squashfs.Gzip, "zstd": squashfs.Zstd}

// Run prepares one image.
func Run(ctx context.Context, d publish.Deps, o Options) (publish.Published, error) {
	p := preparation{Options: o, Deps: d}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.SignatureKey != "" {
		p.Reads = append(slices.Clone(p.Reads), o.SignatureKey)
		if p.key, err = cosign.ReadKey(o.SignatureKey); err != nil {
			return publish.Published{}, err
		}
	}
	if o.SBOM != "" {
		p.Reads = append(slices.Clone(p.Reads), o.SBOM)
		if p.bill, err = sbom.Read(o.SBOM); err != nil {
			return publish.Published{}, err
		}
	}
	if _, ok := compressions[o.Compression]; !ok {
		return publish.Published{}, fault.New(fault.Usage, fmt.Errorf("--compression %.40q is neither gzip nor zstd", o.Compression), "")
	}
	if o.HPCS.Path != "" {
		return p.fromHPCS(ctx)
	}
	if image.IsSIF(o.Image) {
		return p.sif(ctx)
	}
	return p.layered(ctx)
}

// preparation is one run.
type preparation struct {
	Options
	publish.Deps
	key  *cosign.Key // nil if no signature is asked for
	bill *sbom.File  // nil for none
}

// layered prepares an image of layers.
func (p preparation) layered(ctx context.Context) (publish.Published, error) {
	mirrors := make([]registry.Mirror, len(p.Mirrors))
	for i, s := range p.Mirrors {
		var err error
		if mirrors[i], err = registry.ParseMirror(s); err != nil {
			return publish.Published{}, fmt.Errorf("client.conf: %w", err)
		}
	}
	img, err := image.Open(ctx, p.Image, image.Options{
		Platform: p.Platform, DockerSocket: p.DockerSocket, Signed: p.key != nil, SpoolDir: p.spoolDir(),
		Registry: registry.Options{Mirrors: mirrors}, Log: p.Log, Progress: p.Progress,
	})
	if err != nil {
		return publish.Published{}, err
	}
	defer img.Close()
	described, err := describe(img)
	if err != nil {
		return publish.Published{}, err
	}
	if p.key != nil {
		if err := p.checkSignature(ctx, img.Remote); err != nil {
			return publish.Published{}, err
		}
		described.SignedBy = p.key.Fingerprint()
	}
	in := sifbuild.Source{Image: img, FileName: manifest.ImageFile, Log: p.Log}
	in.Options.Compression = compressions[p.Compression]
	r := p.request(img.Name, in, described)
	return publish.Run(ctx, p.Deps, r)
}

// spoolDir is where what is read once from elsewhere is kept, encrypted: TMPDIR if somebody has set it, else beside
// the sealed file, for which there has to be room in any case. /tmp may well be memory.
func (o Options) spoolDir() string {
	dir := o.OutputDir
	if o.SealedPath != "" {
		dir = filepath.Dir(o.SealedPath)
	}
	if st, err := os.Stat(dir); os.Getenv("TMPDIR") != "" || err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// checkSignature says by which signature the image is the key's.
func (p preparation) checkSignature(ctx context.Context, img *registry.Remote) error {
	found, err := img.VerifySignature(ctx, p.key)
	if err != nil {
		return err
	}
	covered := "the image's manifest"
	if found.Digest != img.Digest {
		covered = "the index that lists the image"
	}
	key := manifest.Digest(p.key.Fingerprint())
	p.Log.Info("the image is signed", "covered", covered, "digest", found.Digest, "key", key,
		"signed-as", text.Printable(found.Name))
	return nil
}

// sif prepares a SIF file as it is.
func (p preparation) sif(ctx context.Context) (publish.Published, error) {
	info, err := image.Inspect(p.Image)
	if err != nil {
		return publish.Published{}, err
	}
	if p.key != nil {
		err := fmt.Errorf("image %s: %w", text.Printable(p.Image), image.Unsignable("a SIF file"))
		return publish.Published{}, fault.WithHint(err, "apptainer verify checks what signs SIF files; "+
			"or take the image from the registry where cosign signed it: docker://HOST/REPOSITORY:TAG")
	}
	path, err := filepath.Abs(p.Image)
	if err != nil {
		return publish.Published{}, err
	}
	if err := oci.CheckPlatform(p.Platform, "linux/"+info.Arch); p.Platform != "" && err != nil {
		return publish.Published{}, fault.New(fault.Usage, fmt.Errorf("image %s: %w", path, err),
			"leave --platform out, or name another file")
	}
	described := &manifest.Image{Reference: filepath.Base(path), Of: manifest.OfFile, Platform: "linux/" + info.Arch}
	if info.HPCS {
		described.Prepared = manifest.PreparedHPCS
	}
	in := source.Input{Paths: []string{path}, AsFile: true, FileName: manifest.ImageFile}
	r := p.request(strings.TrimSuffix(filepath.Base(path), ".sif"), in, described)
	// That it is what is sealed, publish sees to: it compares the file's inode, size and times before this with those after sealing.
	r.Hash = func(ctx context.Context) (manifest.Digest, error) {
		f, err := fsx.OpenRegular(path)
		if err != nil {
			return manifest.Digest{}, err
		}
		return p.hash(ctx, f, filepath.Base(path), info.Size)
	}
	return publish.Run(ctx, p.Deps, r)
}

// hash reads a file of about size bytes to its end, closes it, and returns its digest.
func (p preparation) hash(ctx context.Context, f io.ReadCloser, name string, size int64) (d manifest.Digest, err error) {
	defer f.Close()
	bar := p.Progress.Start("reading "+name, 0, size)
	defer func() { bar.End(err == nil) }()
	h, b, done := sha256.New(), make([]byte, 1<<20), int64(0)
	for ctx.Err() == nil {
		n, err := f.Read(b)
		h.Write(b[:n])
		done += int64(n)
		bar.Update(done, size)
		if err == io.EOF {
			return manifest.Digest(h.Sum(nil)), nil
		} else if err != nil {
			return d, err
		}
	}
	return d, context.Cause(ctx)
}

// request asks for the sealing of in, an image called name, with what goes along.
func (p preparation) request(name string, in publish.Input, described *manifest.Image) publish.Request {
	t := p.Target
	t.Name = name
	if t.SealedPath == "" {
		t.SealedPath = filepath.Join(p.OutputDir, "encrypted_prepared_"+t.Name+".sif")
	}
	if p.bill != nil {
		b := beside{Input: in, file: p.bill}
		in, described.SBOM = b, &manifest.FileRef{Name: p.bill.Name, Digest: b.digest(), Size: int64(len(p.bill.Content))}
	}
	return publish.Request{Target: t, Kind: manifest.KindImage, Input: in, Image: described}
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
	if image.PreparedByHPCS(img.Config.Config) {
		out.Prepared = manifest.PreparedHPCS
	}
	if b := img.Base; b.Name != "" || b.Digest != "" {
		out.Base = &manifest.BaseImage{Reference: b.Name, Digest: b.Digest}
	}
	return out, nil
}
