package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

var (
	errNoTime  = errors.New("no time left to seal the results")
	errNoSpace = errors.New("not enough space left to seal the results")
	errUnread  = errors.New("not all of the results could be read in time")
	errNotAll  = errors.New("not all of the results could be kept: sealbatch results names what could not")
)

// sealer makes what vouches for the outputs, with the time and the room that are left.
type sealer struct {
	*supervisor
	dir   nodeDir
	alloc allocation
	rcpts []age.Recipient
}

// seal makes results.sealed of what is in the output volume, and fills out.
func (s sealer) seal(cipher volume.Source, use usage, out *manifest.Output) error {
	if err := s.canSeal(use); err != nil {
		return err
	}
	made, err := s.writeSealed(cipher, use)
	if err != nil {
		return err
	}
	s.log.Info("sealed", "bytes", made.Size, "entries", made.Entries)
	out.Sealed, out.File, out.VolumeID, out.Size = true, jobdir.SealedName, made.ID.String(), made.Size
	out.Digest, out.Checksum = manifest.Digest(made.Digest), manifest.Digest(made.Checksum)
	return nil
}

// canSeal compares what sealing takes with what is left. Nobody reads the
// scratch volume any more: it makes room if need be.
func (s sealer) canSeal(use usage) error {
	if left := s.halt.left(s.alloc); left >= 0 && use.sealTime()+use.indexTime() > left {
		return fmt.Errorf("%w: %d bytes in %d files, %s left", errNoTime, use.bytes, use.files, left.Round(time.Second))
	}
	free, err := s.dir.free()
	if err == nil && free < use.sealedBytes() {
		if err := s.dir.RemoveTree(jobdir.ScratchName); err != nil {
			s.log.Warn("cipher directory not removed", "directory", jobdir.ScratchName, "error", terse(err))
		}
		free, err = s.dir.free()
	}
	if err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if free < use.sealedBytes() {
		return fmt.Errorf("%w: %d bytes are needed, %d are free", errNoSpace, use.sealedBytes(), free)
	}
	return nil
}

// free returns the room that the file system has, in bytes. Quotas do not show in it.
func (d nodeDir) free() (int64, error) {
	dir, err := d.Open(".")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	var st unix.Statfs_t
	err = unix.Fstatfs(int(dir.Fd()), &st)
	return int64(st.Bavail) * st.Bsize, err
}

// writeSealed writes the sealed volume under a temporary name, and gives it its
// name when all of it is durable.
func (s sealer) writeSealed(src volume.Source, use usage) (sealed volume.Sealed, err error) {
	ctx, done, stop := s.paced(use)
	defer stop()
	err = s.writePartial(jobdir.SealedName, func(f *os.File) (err error) {
		sealed, err = volume.Seal(ctx, f, src, volume.SealOptions{
			Recipients: s.rcpts, Progress: func(b, _ int64) { done.Store(b) },
		})
		sealed.Key.Wipe()
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return sealed, err
}

// writePartial writes a file of the node's directory under a temporary name and
// renames it when it is durable. If that fails nothing is left of it: a full
// file system needs the room.
func (s sealer) writePartial(name string, fill func(*os.File) error) error {
	partial := name + jobdir.PartialSuffix
	f, err := s.dir.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.dir.Commit(partial, name)
	}
	if err != nil {
		_ = s.dir.Remove(partial)
	}
	return err
}

// index writes the index over the cipher directory, with digests as far as the
// time allows.
func (s sealer) index(cipher *volume.CipherDir, id volume.ID, use usage, left *left) (*manifest.Index, error) {
	opt := volume.DirIndexOptions{
		More: func() bool {
			left := s.halt.left(s.alloc)
			return left < 0 || left > use.walkTime()
		},
		Damaged: left.add, // the log, which is being indexed itself, cannot name it
	}
	var x volume.DirIndex
	err := s.writePartial(jobdir.IndexName, func(f *os.File) (err error) {
		x, err = cipher.WriteIndex(s.halt.sealing, f, id, opt)
		return err
	})
	if err != nil {
		return nil, err
	}
	torn := left.entries - left.special
	s.log.Info("indexed", "files", x.Files, "unread", x.Unread, "torn", torn)
	return &manifest.Index{
		File: jobdir.IndexName, Digest: manifest.Digest(x.Digest), Size: x.Size, Files: x.Files, Unread: x.Unread, Torn: torn,
	}, nil
}
