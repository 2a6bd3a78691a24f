package results

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// openIndexed copies a cipher directory into tmp as far as its index knows it,
// and extracts it by the index, which the receipt vouches for.
func (f *fetch) openIndexed(tmp, tree string) error {
	x := f.Receipt.Output.Index
	if !filepath.IsLocal(x.File) || x.Size <= 0 || x.Size > jobdir.MaxIndex {
		return fault.New(fault.Integrity, fmt.Errorf("receipt names the index %.80q of %d bytes", x.File, x.Size), "")
	}
	index, err := transfer.ReadFile(f.FS, path.Join(f.remote, x.File), x.Size)
	if isGone(err) {
		return fault.New(fault.Integrity, fmt.Errorf("the index of the results is missing: %w", err),
			"somebody removed it after the job; results --recover opens the results without it, as nobody vouches for")
	}
	if err != nil {
		return err
	}
	id, key, err := f.wrappedKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	cipher := filepath.Join(tmp, "cipher")
	if err := os.Mkdir(cipher, 0o700); err != nil {
		return err
	}
	r, err := f.Open.OpenIndexed(cipher, index, id, key)
	if errors.Is(err, volume.ErrLimit) {
		return tooLarge(err)
	}
	if err == nil && manifest.Digest(r.Digest()) != x.Digest {
		err = errors.Join(volume.ErrIndex, r.Close())
	}
	if err != nil {
		return fault.New(fault.Integrity, fmt.Errorf("the index of the results is not the one that the job signed: %w", err),
			"it was replaced after the job: do not use it")
	}
	defer r.Close()
	if err := f.copyIndexed(r, cipher); err != nil {
		return fmt.Errorf("fetch the cipher directory: %w", err)
	}
	return f.extractIndexed(r, tree)
}

func (f *fetch) copyIndexed(r *volume.Reader, cipher string) error {
	want := r.CipherPaths()
	var total int64
	for _, size := range want {
		total += max(0, size)
	}
	c := copier{ctx: f.ctx, fs: f.FS, want: want, unlock: f.unlock, progress: f.Progress.Start("fetching "+f.Name, 0, total)}
	err := c.copy(path.Join(f.remote, jobdir.CipherDirName), cipher)
	c.progress.End(err == nil)
	if err != nil {
		return err
	}
	known := map[string]bool{} // not in the index, as the job itself has said
	for _, d := range f.Left {
		known[d.Path] = true
	}
	for _, d := range c.added {
		if d.Path = r.PlainPath(d.Path); !known[d.Path] {
			f.Changed = append(f.Changed, d)
		}
	}
	f.leave(c, r.PlainPath)
	return nil
}

// extractIndexed extracts what is as it was indexed. Differences that cost
// nothing are only told of.
func (f *fetch) extractIndexed(r *volume.Reader, tree string) error {
	f.Unread = r.UnreadPaths(maxNamed)
	rep, err := r.Verify(f.ctx, volume.VerifyOptions{NamesOnly: true})
	if err != nil && !errors.Is(err, volume.ErrIntegrity) {
		return err
	}
	opt, collected := f.extractOptions(true)
	err = r.Extract(f.ctx, tree, opt)
	collected()
	if err != nil {
		return err
	}
	f.Damaged = slices.DeleteFunc(f.Damaged, func(d Damage) bool {
		return errors.Is(d.Err, volume.ErrMissing) && slices.ContainsFunc(f.Left, func(o Damage) bool { return o.Path == d.Path })
	})
	for _, d := range rep.Damaged {
		if !slices.ContainsFunc(f.Damaged, func(o Damage) bool { return o.Path == d.Path }) {
			f.Changed = append(f.Changed, Damage{d.Path, d.Err})
		}
	}
	return f.unlessDamaged()
}

// wrappedKey opens keys.age as the node signed it: Check compares it only where there
// are no sealed results, and anybody can make one for the owner's public key.
func (f *fetch) wrappedKey() (volume.ID, volume.Key, error) {
	v := f.v
	if manifest.DigestOf(f.files.Keys) != v.Origin.Keys {
		return volume.ID{}, volume.Key{}, fault.New(fault.Integrity, fmt.Errorf("wrapped keys of the outputs: %w: %s is not the one that "+
			"the node signed", jobdir.ErrNotOurs, jobdir.KeysName), "somebody replaced it after the job; do not use it")
	}
	id, key, err := volume.ReadKey(bytes.NewReader(f.files.Keys), f.Identities...)
	if errors.Is(err, volume.ErrNoIdentity) {
		if key, err = f.orRewrapped(v.Origin.VolumeID, key, err); err == nil {
			id, err = volume.ParseID(v.Origin.VolumeID)
		}
	}
	if err != nil {
		return id, key, err
	}
	if id.String() != v.Origin.VolumeID {
		key.Wipe()
		return id, key, fault.New(fault.Integrity, errors.New("the wrapped key is that of another volume"), "")
	}
	return id, key, nil
}
