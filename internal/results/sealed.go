package results

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// openSealed downloads a sealed volume into tmp, holds it against the receipt,
// and extracts it.
func (f *fetch) openSealed(tmp, tree string) error {
	out := f.Receipt.Output
	if !filepath.IsLocal(out.File) {
		return fault.New(fault.Integrity, fmt.Errorf("receipt names the file %.80q", out.File), "")
	}
	st, err := f.FS.Stat(path.Join(f.remote, out.File))
	if isGone(err) {
		return fault.New(fault.Integrity, fmt.Errorf("the sealed results are missing: %w", err), "somebody removed them after the job")
	}
	if err == nil && st.Size() != out.Size {
		return wrongSize(out, st.Size())
	}
	sealed := filepath.Join(tmp, "sealed")
	if err := f.download(path.Join(f.remote, out.File), sealed, out.Size); err != nil {
		return fmt.Errorf("download %s: %w", out.File, err)
	}
	local, err := os.Open(sealed)
	if err != nil {
		return err
	}
	defer local.Close()
	if err := checkDigest(out, local); err != nil {
		return err
	}
	sum, err := volume.ReadChecksum(f.ctx, io.NewSectionReader(local, 0, out.Size))
	if err != nil {
		return err
	}
	if manifest.Digest(sum) != out.Checksum {
		err := errors.New("the sealed results were altered after the job sealed them")
		if !f.Recover {
			return fault.New(fault.Integrity, err, "fetch them again; "+
				"if that does not help, the copy on scratch is damaged, and results --recover opens what is not")
		}
		f.Notes = append(f.Notes, err.Error())
	}
	return f.extractSealed(local, out, tree)
}

// wrongSize is the error of sealed results of another size than the job signed.
func wrongSize(out manifest.Output, size int64) error {
	return fault.New(fault.Integrity, fmt.Errorf("the sealed results have %d bytes, not the %d that the job signed", size, out.Size),
		"they were cut or replaced after the job; do not use them")
}

// checkDigest refuses another volume, or another version of it, than the job signed.
func checkDigest(out manifest.Output, r io.ReaderAt) error {
	id, digest, err := volume.ReadDigest(r, out.Size)
	if err != nil {
		return err
	}
	if id.String() != out.VolumeID || manifest.Digest(digest) != out.Digest {
		return fault.New(fault.Integrity, errors.New("the sealed results are not those that the job signed"),
			"they were replaced after the job; do not use them")
	}
	return nil
}

func (f *fetch) extractSealed(local *os.File, out manifest.Output, tree string) error {
	key, err := volume.UnwrapKey(local, out.Size, f.Identities...)
	key, err = f.orRewrapped(out.VolumeID, key, err)
	if err != nil {
		return err
	}
	defer key.Wipe()
	r, err := f.Open.Open(local, out.Size, key)
	if err != nil {
		return tooLarge(err)
	}
	opt, collected := f.extractOptions(true)
	err = r.Extract(f.ctx, tree, opt)
	collected()
	if err != nil {
		return err
	}
	return f.unlessDamaged()
}

func (f *fetch) download(remote, local string, size int64) error {
	bar := f.Progress.Start("fetching "+f.Name, 0, size)
	_, err := transfer.Download(f.ctx, f.FS, remote, local, size, func(done int64) { bar.Update(done, size) })
	bar.End(err == nil)
	return err
}
