package noderun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/volume"
)

var (
	errNoTime  = errors.New("no time left to seal the results")
	errNoSpace = errors.New("not enough space left to seal the results")
	errUnread  = errors.New("not all of the results could be read in time")
)

// conclude preserves the outputs and signs the receipt. err is how work ended;
// the error returned is that one, or what went wrong here.
func (n *node) conclude(err error) error {
	n.dir.freeReserve()
	out := manifest.Output{Until: "scratch"}
	if n.results.root != nil {
		out.File, out.VolumeID = jobdir.CipherDirName, n.output.id.String()
		serr := n.timed("sealing", ExitSeal, func() error { return n.preserve(&out) })
		// A run that was stopped without time to seal is first of all stopped.
		if err == nil {
			err = serr
		}
	}
	rerr := n.writeReceipt(out, err)
	if rerr != nil {
		rerr = failed(ExitSeal, fmt.Errorf("write the receipt: %w", terse(rerr)))
	}
	// Without a receipt nothing vouches for the sealed results: both stay.
	n.removeCipherDirs(out.Sealed && rerr == nil)
	return errors.Join(err, rerr)
}

// preserve makes what vouches for the outputs: a sealed volume of their own or,
// where there is no time or room for it, an index over the cipher directory.
// Both are made from the cipher directory itself, which is all there is when the
// mount's server has died, and spares the way through the kernel when it has not.
func (n *node) preserve(out *manifest.Output) error {
	if err := n.quiesce(out); err != nil {
		return err
	}
	dir, err := n.output.root.Open(".")
	if err != nil {
		return terse(err)
	}
	defer dir.Close()
	use, err := tidy(fsx.FDPath(dir) + "/")
	if err != nil {
		return terse(err)
	}
	if use.removed+use.opened > 0 {
		n.results.note("before sealing, %d sockets and pipes were removed and %d entries made readable", use.removed, use.opened)
	}
	cipher, err := volume.OpenCipherDir(fsx.FDPath(dir), n.output.key)
	if err != nil {
		return terse(err)
	}
	serr := n.seal(cipher, use, out)
	if serr == nil {
		return nil
	}
	n.results.note("sealing: %v", serr)
	n.log.Info("the results stay as an encrypted directory", "reason", terse(serr))
	out.Index, err = n.index(cipher, use)
	switch {
	case err != nil:
		return fmt.Errorf("%w, and no index of them either: %w; they stay as an encrypted directory that nothing vouches for", terse(serr), terse(err))
	case out.Index.Unread > 0:
		return errUnread
	}
	return nil
}

// quiesce makes sure that nobody writes any more and that what was written has
// reached the cipher directory.
func (n *node) quiesce(out *manifest.Output) error {
	err := n.space.KillAll()
	if errors.Is(err, sandbox.ErrClosed) {
		// Who held the namespaces has died, and all in them with it; Close waits for that.
		err = nil
		if cerr := n.space.Close(); cerr != nil {
			n.log.Warn("a mount did not end in order", "error", terse(cerr))
		}
	}
	if err != nil {
		return err
	}
	root, err := n.results.root.Open(".")
	if err == nil {
		err = errors.Join(unix.Syncfs(int(root.Fd())), root.Close())
	}
	if out.MountLost = err != nil; out.MountLost {
		n.log.Warn("the output volume's mount has ended early", "error", terse(err))
	}
	return nil
}

// seal makes results.sealed of what is in the output volume, and fills out.
func (n *node) seal(cipher volume.Source, use usage, out *manifest.Output) error {
	if err := n.canSeal(use); err != nil {
		return err
	}
	sealed, err := n.writeSealed(cipher, use)
	if err != nil {
		return err
	}
	n.log.Info("sealed", "bytes", sealed.Size, "entries", sealed.Entries)
	out.Sealed, out.File, out.VolumeID, out.Size = true, jobdir.SealedName, sealed.ID.String(), sealed.Size
	out.Digest, out.Checksum = manifest.Digest(sealed.Digest), manifest.Digest(sealed.Checksum)
	return nil
}

// canSeal compares what sealing takes with what is left. Nobody reads the
// scratch volume any more: it makes room if need be.
func (n *node) canSeal(use usage) error {
	if left := n.halt.left(n.alloc); left >= 0 && use.sealTime()+use.indexTime() > left {
		return fmt.Errorf("%w: %d bytes in %d files, %s left", errNoTime, use.bytes, use.files, left.Round(time.Second))
	}
	free, err := n.dir.free()
	if err == nil && free < use.sealedBytes() {
		if err := n.dir.RemoveTree(jobdir.ScratchName); err != nil {
			n.log.Warn("cipher directory not removed", "directory", jobdir.ScratchName, "error", terse(err))
		}
		free, err = n.dir.free()
	}
	if err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if free < use.sealedBytes() {
		return fmt.Errorf("%w: %d bytes are needed, %d are free", errNoSpace, use.sealedBytes(), free)
	}
	return nil
}

// free is the room that the file system has, in bytes. Quotas it does not tell.
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
func (n *node) writeSealed(src volume.Source, use usage) (sealed volume.Sealed, err error) {
	ctx, done, stop := n.paced(use)
	defer stop()
	err = n.writePartial(jobdir.SealedName, func(f *os.File) (err error) {
		sealed, err = volume.Seal(ctx, f, src, volume.SealOptions{Recipients: n.rcpts, Progress: func(b, _ int64) { done.Store(b) }})
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
func (n *node) writePartial(name string, fill func(*os.File) error) error {
	partial := name + jobdir.PartialSuffix
	f, err := n.dir.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = n.dir.Commit(partial, name)
	}
	if err != nil {
		_ = n.dir.Remove(partial)
	}
	return err
}

// index writes the index over the cipher directory, with digests as far as the
// time allows.
func (n *node) index(cipher *volume.CipherDir, use usage) (*manifest.Index, error) {
	torn := 0
	opt := volume.DirIndexOptions{
		More: func() bool {
			left := n.halt.left(n.alloc)
			return left < 0 || left > use.walkTime()
		},
		// Not noted by name: the log is being indexed itself.
		Damaged: func(string, error) { torn++ },
	}
	var x volume.DirIndex
	err := n.writePartial(jobdir.IndexName, func(f *os.File) (err error) {
		x, err = cipher.WriteIndex(n.halt.sealing, f, n.output.id, opt)
		return err
	})
	if err != nil {
		n.results.note("index: %v", err)
		return nil, err
	}
	n.log.Info("indexed", "files", x.Files, "unread", x.Unread, "torn", torn)
	return &manifest.Index{
		File: jobdir.IndexName, Digest: manifest.Digest(x.Digest), Size: x.Size, Files: x.Files, Unread: x.Unread, Torn: torn,
	}, nil
}

// writeReceipt signs what happened.
func (n *node) writeReceipt(out manifest.Output, err error) error {
	reason := jobdir.Completed
	if err != nil {
		reason = reasonOf(exitOf(err, ExitManifest))
	}
	jws, err := manifest.SignJWS(manifest.TypeReceipt, n.grant.Signer, manifest.Receipt{
		Run: n.m.Run, Manifest: n.digest, Job: n.alloc.job, Node: n.alloc.node, Tier: n.tier,
		Started: n.started.UTC(), Ended: time.Now().UTC(), Exit: n.app, Reason: reason,
		Mounts: n.mounts(), Steps: n.steps, Output: out,
	})
	if err != nil {
		return err
	}
	return n.dir.Replace(jobdir.ReceiptName, []byte(jws+"\n"), 0o600)
}

// removeCipherDirs unmounts, then removes the scratch volume, and the output
// volume if it has been sealed.
func (n *node) removeCipherDirs(sealed bool) {
	n.unmount()
	names := []string{jobdir.ScratchName}
	if sealed {
		names = append(names, jobdir.CipherDirName)
	}
	for _, name := range names {
		if err := n.dir.RemoveTree(name); err != nil {
			n.log.Warn("cipher directory not removed", "directory", name, "error", terse(err))
		}
	}
}
