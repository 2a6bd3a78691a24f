package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// errNoRoom: what HPCS prepared is written once more, encrypted.
var errNoRoom = errors.New("not enough space to write once more, encrypted, what HPCS prepared")

// openHPCS opens a file that HPCS encrypted. Whether it is the pinned one is known when it has been decrypted.
func openHPCS(ref manifest.VolumeRef, released keyapi.BundleKey) (a *hpcs.Artefact, f *os.File, err error) {
	if released.Digest != ref.Digest {
		return nil, nil, fmt.Errorf("%w: its key is another file's", volume.ErrIntegrity)
	}
	sum, err := ref.HPCS.Sum()
	if err != nil {
		return nil, nil, err
	}
	if f, _, err = openSized(ref.Path, ref); err != nil {
		return nil, nil, err
	}
	if a, err = hpcs.Pinned(f, sum, released.Key); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return a, f, nil
}

// fromHPCS reports whether there is something to decrypt.
func (m *mounted) fromHPCS() bool {
	return slices.ContainsFunc(m.volumes, func(v openVolume) bool { return v.hpcs != nil })
}

// decrypt makes sealed volumes, under keys that are nowhere but in memory, of the files that HPCS encrypted. Nothing looks into
// one before the whole file was the pinned one.
func (m *mounted) decrypt(ctx context.Context) error {
	for i := range m.volumes {
		v := &m.volumes[i]
		if v.hpcs == nil {
			continue
		}
		if err := m.reseal(ctx, v, m.manifest.Volumes[i].Name); err != nil {
			m.results.note("%s, which HPCS prepared: %v", v.what, err)
			return fmt.Errorf("%s: %w", v.what, refused(err))
		}
		m.results.note("%s, which HPCS prepared, has the SHA-512 that the manifest pins", v.what)
	}
	return checkImage(m.volumes[0].Reader)
}

// refused returns what the log may show of an error, with its exit code.
func refused(err error) error {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return failed(ExitMount, terse(err)) // the storage
	}
	return terse(err)
}

// reseal reads v's file once, and makes it a sealed volume.
func (m *mounted) reseal(ctx context.Context, v *openVolume, name string) (err error) {
	if free, err := m.dir.free(); err == nil && free < v.hpcs.Plain {
		return fmt.Errorf("%w: %d bytes and more are needed, %d are free: %w", errNoRoom, v.hpcs.Plain, free, syscall.ENOSPC)
	}
	f, err := m.dir.makeNameless()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	nobody, err := age.GenerateX25519Identity() // a volume has a recipient
	if err != nil {
		return err
	}
	var src volume.Source = hpcs.Dataset{Artefact: v.hpcs, Top: name}
	if v.kind == manifest.KindImage {
		src = hpcs.Image{Artefact: v.hpcs, FileName: manifest.ImageFile}
	}
	s, err := volume.Seal(ctx, f, src, volume.SealOptions{Recipients: []age.Recipient{nobody.Recipient()}})
	defer s.Key.Wipe()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if err != nil {
		return err
	}
	opt := volume.OpenOptions{MaxIndex: volume.AnyIndex, Digest: s.Digest}
	r, err := opt.Open(f, s.Size, s.Key)
	if err != nil {
		return err
	}
	_ = v.file.Close()
	v.Reader, v.file, v.hpcs = r, f, nil
	return nil
}

// namelessName is what a nameless file is called for a moment.
const namelessName = "nameless"

// makeNameless makes a file that is gone as soon as the process is, however that ends.
func (d nodeDir) makeNameless() (*os.File, error) {
	f, err := d.OpenFile(namelessName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file: %w", err)
	}
	if err := d.Remove(namelessName); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
