package publish

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// takeUp sets p.s to the sealed file of an earlier run that was broken off, if it was made
// from just this and can still be opened, and reports whether it did.
func (p *publishing) takeUp() bool {
	c, err := p.readCheckpoint()
	if err == nil && c != nil {
		err = p.resume(*c)
	}
	if c != nil && (err != nil || c.Partial != p.partial()) {
		p.removePartial(*c) // of a volume, or at a place, that will never be published
	}
	if err == nil && c != nil {
		p.Log.Info("going on with the sealed file of an earlier run", "file", p.local())
		return true
	}
	if err != nil {
		p.Log.Info("sealing again: the sealed file of an earlier run cannot be used", "reason", err)
	}
	if c != nil {
		p.removeCheckpoint()
	}
	return false
}

// removePartial removes what a run that was broken off left on the site: the checkpoint says that it is one's own.
func (p *publishing) removePartial(c checkpoint) {
	_ = p.FS.Remove(c.Partial)
	if len(c.VolumeID) < shortID {
		return
	}
	if remote, ok := strings.CutSuffix(c.Partial, "."+c.VolumeID[:shortID]+transfer.PartialSuffix); ok {
		removeStaged(p.FS, remote+InfoSuffix, c.VolumeID)
	}
}

// sealNew sets p.s to a new sealed file, unless it is one that was published, which is
// only to be shipped again.
func (p *publishing) sealNew(ctx context.Context) (err error) {
	if p.s.Size > 0 {
		return nil
	}
	if err := p.room(p.FS, p.r.DirAtRest, "on the site", transfer.At(p.r.DirAtRest)); err != nil {
		return err
	}
	p.s, err = p.seal(ctx)
	return err
}

// fits reports why a sealed file with the checkpoint c cannot be what p would seal.
func (p *publishing) fits(c checkpoint) error {
	switch {
	case c.Size == 0:
		return errors.New("it was not sealed to its end")
	case !p.input.resumable():
		return errors.New("the input cannot be compared with what it was")
	case c.Input != p.input.fingerprint:
		return errors.New("the input has changed since")
	case c.Request != p.r.request():
		return errors.New("it was made for other recipients")
	case p.Identities == nil:
		return errors.New("there is no key here that opens it")
	}
	return nil
}

// resume takes up the sealed file of an earlier run. Its key comes out of the
// file; that it is the file that was made, the digests say.
func (p *publishing) resume(c checkpoint) error {
	if err := p.fits(c); err != nil {
		return err
	}
	f, err := os.OpenFile(p.local(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != c.Size || !st.Mode().IsRegular() {
		return errors.Join(errors.New("its size is not that of the file that was made"), err)
	}
	id, digest, err := volume.ReadDigest(f, c.Size)
	if err != nil {
		return err
	}
	if id.String() != c.VolumeID || digest != c.Digest {
		return errors.New("it is not the file that was made")
	}
	ids, err := p.Identities()
	if err != nil {
		return err
	}
	key, err := volume.UnwrapKey(f, c.Size, ids...)
	if err != nil {
		return err
	}
	// The key that it wraps is the one that it was sealed with.
	opt := volume.OpenOptions{MaxIndex: volume.AnyIndex, Digest: c.Digest}
	if _, err := opt.Open(f, c.Size, key); err != nil {
		key.Wipe()
		return err
	}
	p.s = volume.Sealed{
		ID: id, Digest: digest, Size: c.Size, Checksum: volume.ChecksumOf(c.Segments), Segments: c.Segments, Key: key,
	}
	return nil
}
