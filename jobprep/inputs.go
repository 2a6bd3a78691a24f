package jobprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// maxSmall bounds info files, signatures and verification scripts, in bytes.
const maxSmall = 1 << 20

// readInfos reads the info files of the image and of the datasets.
func (p *planned) readInfos(ctx context.Context) error {
	image, err := p.readInfo(ctx, p.o.ApplicationInfo, manifest.KindImage)
	if err != nil {
		return err
	}
	p.volumes = []manifest.Info{image}
	if image.Image != nil && !image.Image.Digest.IsZero() {
		p.d.Log.Info("the image is " + image.Image.String())
	}
	for _, f := range p.o.DataInfo {
		in, err := p.readInfo(ctx, f, manifest.KindDataset)
		if err != nil {
			return err
		}
		for i, other := range p.volumes[1:] {
			if other.Name == in.Name {
				return fault.New(fault.Usage, fmt.Errorf("two datasets are called %q, which would be one directory: %s and %s", in.Name,
					transfer.At(p.o.DataInfo[i]), transfer.At(f)), "name each once; data-prep --name gives a dataset another name")
			}
		}
		p.volumes = append(p.volumes, in)
	}
	return p.withoutUse()
}

// readInfo reads an info file, checks its signature against the trust anchors
// and the volume it speaks of against what it says.
func (p *planned) readInfo(ctx context.Context, file string, kind manifest.Kind) (manifest.Info, error) {
	if err := p.notTheVolume(file, kind); err != nil {
		return manifest.Info{}, err
	}
	if len(p.o.HPCSKeys) > 0 && p.byHPCS(file) {
		return p.readHPCS(ctx, file, kind)
	}
	info, err := p.trustedInfo(ctx, file)
	if err != nil && strings.Contains(err.Error(), transfer.At(file)) {
		return info, fmt.Errorf("info file: %w", err)
	}
	if err != nil {
		return info, fmt.Errorf("info file %s: %w", transfer.At(file), err)
	}
	if info.Kind != kind {
		return info, fault.New(fault.Usage,
			fmt.Errorf("info file %s describes %s, not %s", transfer.At(file), article(info.Kind), article(kind)),
			"-ai takes the image's info file, -di the dataset's")
	}
	if now := time.Now(); now.After(info.Policy.Expires) {
		return info, fault.New(fault.Key,
			fmt.Errorf("info file %s: the owner's policy expired on %s", transfer.At(file), info.Policy.Expires.Format(time.DateOnly)),
			"ask the owner to renew it")
	}
	if err := p.checkVolume(info); err != nil {
		return info, fmt.Errorf("sealed volume %s: %w", transfer.At(info.PathAtRest), err)
	}
	return info, nil
}

// notTheVolume tells from an info file what is often named in its place: the sealed volume, a directory, a file that lies
// on this machine only, nothing.
func (p *planned) notTheVolume(file string, kind manifest.Kind) error {
	flag, command := "-di", "data-prep"
	if kind == manifest.KindImage {
		flag, command = "-ai", "container-prep"
	}
	printed := flag + " takes the path that " + command + " printed, NAME" + publish.InfoSuffix + " at the site"
	st, err := p.d.FS.Stat(file)
	if !strings.HasSuffix(file, publish.InfoSuffix) {
		if _, err := p.d.FS.Stat(file + publish.InfoSuffix); err == nil {
			return fault.New(fault.Usage, fmt.Errorf("%s is no info file", transfer.At(file)), "you mean "+flag+" "+file+publish.InfoSuffix)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := (transfer.Local{}).Stat(file); err == nil {
			printed = "it lies on this machine: " + printed
		}
		return fault.New(fault.Usage, fmt.Errorf("there is no info file %s", transfer.At(file)), printed)
	case err == nil && st.IsDir():
		return fault.New(fault.Usage, fmt.Errorf("%s is a directory, not an info file", transfer.At(file)), printed)
	}
	return nil // what else is wrong, reading it says
}

func article(k manifest.Kind) string {
	if k == manifest.KindImage {
		return "an image"
	}
	return "a " + string(k)
}

func (p *planned) trustedInfo(ctx context.Context, file string) (manifest.Info, error) {
	b, err := transfer.ReadFile(p.d.FS, file, maxSmall)
	if err != nil {
		return manifest.Info{}, err
	}
	sig, err := transfer.ReadFile(p.d.FS, file+".sig", maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		if _, perr := manifest.ParseInfo(b); errors.Is(perr, manifest.ErrHPCSInfo) {
			return manifest.Info{}, fault.New(fault.Integrity, perr, "give its key, --hpcs-key FILE, and the job decrypts it; "+
				"or seal it for all jobs with data-prep (an image: container-prep) --from-hpcs "+file+" --hpcs-key FILE")
		}
		return manifest.Info{}, fault.New(fault.Integrity,
			fmt.Errorf("it is not signed: there is no %s.sig", path.Base(file)), "ask its owner to publish it again")
	}
	if err != nil {
		return manifest.Info{}, err
	}
	info, bad := manifest.ParseInfo(b) // says when it was made
	who, err := p.d.Trust.Check(manifest.NamespaceInfo, b, sig, time.Now(), info.Created)
	if err != nil {
		return manifest.Info{}, fault.New(fault.Integrity, err, trustHint(err))
	}
	p.d.Log.Info("info file is signed", "name", info.Name, "file", path.Base(file), "by", who)
	return info, bad
}

func trustHint(err error) string {
	if errors.Is(err, sshid.ErrUntrusted) {
		return "if you trust that key, add it to [trust] allowed-signers"
	}
	return hintBrokenOff + "the file was altered, or its signature was made for something else"
}

// hintBrokenOff: sealed file, signature and info file of a new version appear one after the other.
const hintBrokenOff = "if its owner's data-prep or container-prep broke off while it published a newer version, " +
	"the same command again puts that right; else "

// checkVolume compares a sealed volume on the site with its info file: size
// and digest, which needs the volume's index but neither its key nor its data.
func (p *planned) checkVolume(info manifest.Info) error {
	f, err := p.d.FS.Open(info.PathAtRest)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	hint := hintBrokenOff + "the volume was altered or replaced since its owner signed the info file"
	if st.Size() != info.Size {
		return fault.New(fault.Integrity, fmt.Errorf("it has %d bytes, not the %d that its owner signed", st.Size(), info.Size), hint)
	}
	id, digest, err := volume.ReadDigest(f, st.Size())
	if err != nil {
		return err
	}
	if id.String() != info.VolumeID || manifest.Digest(digest) != info.Digest {
		return fault.New(fault.Integrity, errors.New("it is not the volume that its owner signed"), hint)
	}
	return nil
}

// volumeRef pins the volume that an info file describes.
func volumeRef(i manifest.Info) (manifest.VolumeRef, error) {
	name := i.Name
	if i.Kind == manifest.KindImage {
		name = "image"
	}
	sum, err := manifest.ParseDigest(i.Checksum)
	return manifest.VolumeRef{
		Kind: i.Kind, Name: name, Path: i.PathAtRest, VolumeID: i.VolumeID, Digest: i.Digest, Checksum: sum, Size: i.Size,
		Image: i.Image,
	}, err
}
