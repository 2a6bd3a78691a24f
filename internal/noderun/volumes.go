package noderun

import (
	"context"
	"fmt"
	"os"

	"github.com/sealbatch/sealbatch/internal/container"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// openVolume is a sealed volume that has been opened and is the pinned one.
type openVolume struct {
	*volume.Reader
	hpcs *hpcs.Artefact // what HPCS encrypted, until it is decrypted: there is no Reader yet
	kind manifest.Kind
	file *os.File
	rel  string // where it is mounted
	what string // how logs call it: "image", "input 1"
}

func (v openVolume) close() { _ = v.file.Close() }

// openVolumes opens all of the job's volumes before any is mounted.
func (m *mounted) openVolumes(context.Context) error {
	for i, ref := range m.manifest.Volumes {
		what, rel := "image", container.ImageRel
		if ref.Kind != manifest.KindImage {
			what, rel = fmt.Sprintf("input %d", i), container.DatasetRel+"/"+ref.Name
		}
		key, ok := m.released.Keys[ref.VolumeID]
		if !ok {
			return fmt.Errorf("%s: %w: no key was released for volume %s", what, ErrKeyRefused, ref.VolumeID)
		}
		v := openVolume{kind: ref.Kind, rel: rel, what: what}
		var err error
		if ref.HPCS != nil {
			v.hpcs, v.file, err = openHPCS(ref, key)
		} else {
			v.Reader, v.file, err = openPinned(ref, key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, terse(err))
		}
		m.volumes = append(m.volumes, v)
	}
	m.released.WipeKeys()
	if m.volumes[0].hpcs != nil {
		return nil // decrypt looks
	}
	return checkImage(m.volumes[0].Reader)
}

// openPinned opens a volume, at its place or where it is kept beside a newer version.
func openPinned(ref manifest.VolumeRef, released keyapi.BundleKey) (*volume.Reader, *os.File, error) {
	r, f, err := openPinnedAt(ref.Path, ref, released)
	if err == nil {
		return r, f, nil
	}
	if r, f, kept := openPinnedAt(manifest.KeptPath(ref.Path, ref.VolumeID), ref, released); kept == nil {
		return r, f, nil
	}
	return nil, nil, err
}

// openSized opens a regular file, which must have the size that the manifest pins, and returns its size.
func openSized(path string, ref manifest.VolumeRef) (f *os.File, size int64, err error) {
	if f, err = fsx.OpenRegular(path); err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != ref.Size {
		err = fmt.Errorf("%w: %d bytes, the manifest pins %d", volume.ErrSize, st.Size(), ref.Size)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// openPinnedAt opens a volume and compares it with what the manifest pins and
// with what the key service released the key for.
func openPinnedAt(path string, ref manifest.VolumeRef, released keyapi.BundleKey) (r *volume.Reader, f *os.File, err error) {
	f, size, err := openSized(path, ref)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	key, err := volume.KeyFromBytes(released.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKeyRefused, err)
	}
	defer key.Wipe()
	// The owner vouches for the volume with this digest, so its index may be as large as it is.
	opt := volume.OpenOptions{MaxIndex: volume.AnyIndex, Digest: volume.Digest(released.Digest)}
	if r, err = opt.Open(f, size, key); err != nil {
		return nil, nil, err
	}
	digest := manifest.Digest(r.Digest())
	if r.ID().String() != ref.VolumeID || digest != ref.Digest || digest != released.Digest {
		return nil, nil, fmt.Errorf("%w: it is another version or volume than the one that was pinned", volume.ErrIntegrity)
	}
	return r, f, nil
}

func checkImage(r *volume.Reader) error {
	if node, ok := r.Lookup(0, manifest.ImageFile); !ok || r.Attr(node).Type != volume.File {
		return fmt.Errorf("%w: the image volume holds no %s", manifest.ErrInvalid, manifest.ImageFile)
	}
	return nil
}
