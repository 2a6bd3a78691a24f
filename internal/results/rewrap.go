package results

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/submission"
	"github.com/sealbatch/sealbatch/volume"
)

// Rewrap wraps the keys of a job's results to other recipients, and has keep keep each:
// what the job signed stays as it is at the site. No key is kept that does not belong to
// the very results that the job signed. It returns how many were kept; what keeps others
// from it, on any node, is the error.
func Rewrap(ctx context.Context, d Deps, rec submission.Record, rcpts []age.Recipient,
	keep func(volumeID string, wrapped []byte) error,
) (n int, err error) {
	names, err := nodeNames(d.FS, rec)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		f := &fetch{Deps: d, ctx: ctx, rec: rec, remote: jobdir.NodePath(rec.JobDir, name)}
		f.Name = name
		keys, kerr := f.keys()
		for _, k := range keys {
			if e := k.keep(rcpts, keep); e != nil {
				kerr = errors.Join(kerr, e)
			} else {
				n++
			}
			k.key.Wipe()
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		if kerr != nil {
			err = errors.Join(err, fmt.Errorf("node %s: %w", name, kerr))
		}
	}
	return n, err
}

// volumeKey is the key of one of a node's volumes.
type volumeKey struct {
	id  volume.ID
	key volume.Key
}

func (k volumeKey) keep(rcpts []age.Recipient, keep func(string, []byte) error) error {
	var b bytes.Buffer
	if err := volume.WrapKey(&b, k.id, k.key, rcpts...); err != nil {
		return err
	}
	return keep(k.id.String(), b.Bytes())
}

// keys opens the keys of what a node left: of its sealed results, and of the working
// volume, as far as they are there.
func (f *fetch) keys() (keys []volumeKey, err error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	if f.files.Statement == "" || (f.files.Origin == "" && f.files.Receipt == "") {
		return nil, nil // it has begun no results
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	if r := f.v.Receipt; r != nil && r.Output.Sealed {
		var k volumeKey
		if k, err = f.sealedKey(r.Output); err == nil {
			keys = append(keys, k)
		}
	}
	if len(f.files.Keys) > 0 && f.files.Origin != "" {
		id, key, werr := f.wrappedKey()
		switch {
		case werr != nil:
			err = errors.Join(err, werr)
		case len(keys) > 0 && keys[0].id == id: // the sealed results have it, and it was tried on them
			key.Wipe()
		default:
			keys = append(keys, volumeKey{id, key})
		}
	}
	return keys, err
}

// sealedKey opens the key of the sealed results, and their index with it: no more is
// read of them. Whoever writes the storage can exchange them, and their keys.age.
func (f *fetch) sealedKey(out manifest.Output) (k volumeKey, err error) {
	if !filepath.IsLocal(out.File) {
		return k, fault.New(fault.Integrity, fmt.Errorf("receipt names the file %.80q", out.File), "")
	}
	remote, err := f.FS.Open(path.Join(f.remote, out.File))
	if err != nil {
		return k, err
	}
	defer remote.Close()
	st, err := remote.Stat()
	if err == nil && st.Size() != out.Size {
		err = wrongSize(out, st.Size())
	}
	if err == nil {
		err = checkDigest(out, remote)
	}
	if err != nil {
		return k, err
	}
	k.key, err = volume.UnwrapKey(remote, out.Size, f.Identities...)
	if k.key, err = f.orRewrapped(out.VolumeID, k.key, err); err != nil {
		return k, err
	}
	opt := volume.OpenOptions{MaxIndex: volume.AnyIndex, Digest: volume.Digest(out.Digest)}
	if k.id, _, err = opt.CheckKey(remote, out.Size, k.key); err != nil {
		k.key.Wipe()
		return k, fault.New(fault.Integrity, fmt.Errorf("the key that came with the sealed results does not open them: %w", err),
			"it was replaced after the job; a copy made earlier will do")
	}
	return k, nil
}

// orRewrapped returns the key that Rewrap kept of a volume if none of the identities
// opens the job's own: err is what came of that.
func (f *fetch) orRewrapped(volumeID string, key volume.Key, err error) (volume.Key, error) {
	if !errors.Is(err, volume.ErrNoIdentity) {
		return key, err
	}
	err = fault.WithHint(err, "they were sealed to the keys that were yours when the job was submitted: "+
		"name the file of one with -i, or under [results] identity")
	if f.Rewrapped == nil {
		return key, err
	}
	b, rerr := f.Rewrapped(volumeID)
	if errors.Is(rerr, fs.ErrNotExist) {
		return key, err
	}
	if rerr != nil {
		return key, rerr
	}
	id, key, rerr := volume.ReadKey(bytes.NewReader(b), f.Identities...)
	switch {
	case errors.Is(rerr, volume.ErrNoIdentity):
		return key, err
	case rerr == nil && id.String() != volumeID:
		key.Wipe()
		return volume.Key{}, fault.New(fault.Integrity, errors.New("the key that was wrapped anew is that of another volume"), "")
	}
	return key, rerr
}
