package noderun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// Sealing speed that is counted on beforehand: through gocryptfs, onto a busy
// parallel file system. A time for each file comes on top.
const (
	sealRate    = 150e6 // bytes per second
	sealPerFile = 200 * time.Microsecond
)

var (
	errNoTime  = errors.New("no time left to seal the results")
	errNoSpace = errors.New("not enough space left to seal the results")
)

// conclude seals the outputs and signs the receipt. err is how work ended; the
// error returned is that one, or what went wrong here.
func (n *node) conclude(err error) error {
	out := manifest.Output{File: outputName, VolumeID: n.output.id.String(), Until: "scratch"}
	if n.results == nil {
		out = manifest.Output{Until: "scratch"}
	} else {
		serr := n.timed("sealing", ExitSeal, func() error {
			sealed, err := n.seal()
			if err == nil {
				out = sealed
			}
			return err
		})
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

// seal makes results.sealed of what is in the output volume.
func (n *node) seal() (manifest.Output, error) {
	if err := n.space.KillAll(); err != nil {
		return manifest.Output{}, err
	}
	use, err := tidy(n.space.Outside(outputRel))
	if err == nil {
		err = n.canSeal(use)
	}
	var sealed volume.Sealed
	if err == nil {
		if use.removed+use.opened > 0 {
			n.note("before sealing, %d sockets and pipes were removed and %d entries made readable", use.removed, use.opened)
		}
		sealed, err = n.writeSealed()
	}
	if err != nil {
		n.note("sealing: %v", err)
		return manifest.Output{}, fmt.Errorf("%w; the results stay as an encrypted directory, and open all the same", terse(err))
	}
	n.log.Info("sealed", "bytes", sealed.Size, "entries", sealed.Entries)
	return manifest.Output{
		Sealed: true, File: sealedName, VolumeID: sealed.ID.String(), Digest: manifest.Digest(sealed.Digest),
		Checksum: manifest.Digest(sealed.Checksum), Size: sealed.Size, Until: "scratch",
	}, nil
}

// canSeal compares what sealing takes with what is left.
func (n *node) canSeal(use usage) error {
	if left := n.halt.left(n.alloc); left >= 0 && use.sealTime() > left {
		return fmt.Errorf("%w: %d bytes in %d files, %s left", errNoTime, use.bytes, use.files, left.Round(time.Second))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(string(n.dir), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < use.bytes {
		return fmt.Errorf("%w: %d bytes are needed, %d are free", errNoSpace, use.bytes, free)
	}
	return nil
}

// writeSealed writes the sealed volume under a temporary name, and gives it its
// name when all of it is durable.
func (n *node) writeSealed() (sealed volume.Sealed, err error) {
	partial := n.dir.path(partialName)
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return sealed, err
	}
	defer func() {
		if err != nil {
			// A full file system needs the room for the receipt.
			_ = os.Remove(partial)
		}
	}()
	sealed, err = volume.Seal(n.halt.sealing, f, n.space.Outside(outputRel), volume.SealOptions{Recipients: n.rcpts})
	sealed.Key.Wipe()
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		if n.halt.sealing.Err() != nil {
			err = context.Cause(n.halt.sealing)
		}
		return sealed, err
	}
	return sealed, commit(partial, n.dir.path(sealedName))
}

// writeReceipt signs what happened.
func (n *node) writeReceipt(out manifest.Output, err error) error {
	reason := "completed"
	if err != nil {
		reason = reasonOf(exitOf(err, ExitManifest))
	}
	jws, err := manifest.SignJWS(manifest.TypeReceipt, n.grant.Signer, manifest.Receipt{
		Run: n.m.Run, Manifest: n.digest, Job: n.alloc.job, Node: n.alloc.node, Tier: n.tier,
		Started: n.started.UTC(), Ended: time.Now().UTC(), Exit: n.app, Reason: reason,
		Mounts: "way 1", Steps: n.steps, Output: out,
	})
	if err != nil {
		return err
	}
	return replace(n.dir.path(receiptName), []byte(jws+"\n"))
}

// removeCipherDirs unmounts, then removes the scratch volume, and the output
// volume if it has been sealed.
func (n *node) removeCipherDirs(sealed bool) {
	n.unmount()
	names := []string{scratchName}
	if sealed {
		names = append(names, outputName)
	}
	for _, name := range names {
		if err := removeTree(n.dir.path(name)); err != nil {
			n.log.Warn("cipher directory not removed", "directory", name, "error", terse(err))
		}
	}
}

// removeTree removes a tree of one's own, directories that the application made
// read-only among it.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// usage is what an output volume holds, and what was done to make it sealable.
type usage struct {
	bytes   int64
	files   int
	removed int // sockets and pipes
	opened  int // entries that their own owner could not read
}

func (u usage) sealTime() time.Duration {
	return time.Duration(float64(u.bytes)/sealRate*float64(time.Second)) + time.Duration(u.files)*sealPerFile
}

// tidy measures a tree of one's own in which nobody writes any more, removes
// what no volume can hold, and makes readable what its owner made unreadable:
// an application's odd umask is no reason to lose its results.
func tidy(dir string) (usage, error) {
	var u usage
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		u.files++
		switch t := d.Type(); {
		case t.IsDir():
			return u.open(path, d, 0o500)
		case t.IsRegular():
			if fi, err := d.Info(); err == nil {
				u.bytes += fi.Size()
			}
			return u.open(path, d, 0o400)
		case t&(fs.ModeSocket|fs.ModeNamedPipe) != 0:
			u.removed++
			return os.Remove(path)
		}
		return nil
	})
	return u, err
}

// open adds the bits that reading an entry needs. WalkDir calls it before it
// reads a directory.
func (u *usage) open(path string, d fs.DirEntry, need fs.FileMode) error {
	fi, err := d.Info()
	if err != nil || fi.Mode().Perm()&need == need {
		return err
	}
	u.opened++
	return os.Chmod(path, fi.Mode()|need)
}
