package noderun

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/sandbox"
	"github.com/sealbatch/sealbatch/internal/version"
	"github.com/sealbatch/sealbatch/volume"
)

// sealed is a job whose outputs have been preserved, as well as could be.
type sealed struct {
	ran // its error includes what went wrong since
	out manifest.Output
}

// seal preserves the outputs, if there is an output volume.
func (r ran) seal() *sealed {
	r.dir.freeReserve()
	s := &sealed{ran: r, out: manifest.Output{Until: "scratch"}}
	if s.results.root == nil {
		return s
	}
	s.out.File, s.out.VolumeID = jobdir.CipherDirName, s.output.id.String()
	err := s.timed("sealing", ExitSeal, s.preserve)
	// A run that was stopped without time to seal is first of all stopped.
	if s.err == nil {
		s.err = err
	}
	return s
}

// preserve makes what vouches for the outputs: a sealed volume of their own or,
// where there is no time or room for it, an index over the cipher directory.
// Both are made from the cipher directory itself, which is all there is when the
// mount's server has died, and spares the way through the kernel when it has not.
func (s *sealed) preserve() error {
	if err := s.quiesce(); err != nil {
		return err
	}
	top, err := s.dir.Lstat(jobdir.CipherDirName)
	if err != nil {
		return terse(err)
	}
	use := usage{}
	use.open(s.dir.Root, top, 0o700)
	dir, err := s.output.root.Open(".")
	if err != nil {
		return terse(err)
	}
	defer dir.Close()
	use.tidy(s.output.root)
	if use.opened > 0 {
		s.results.note("before sealing, %d entries were made readable", use.opened)
	}
	cipher, err := volume.OpenCipherDir(fsx.FDPath(dir), s.output.key)
	if err != nil {
		return terse(err)
	}
	return s.vouch(cipher, use)
}

// vouch seals the cipher directory, or else indexes it.
func (s *sealed) vouch(cipher *volume.CipherDir, use usage) (err error) {
	k := sealer{supervisor: s.supervisor, dir: s.dir, alloc: s.alloc, rcpts: s.rcpts}
	var left left
	serr := k.seal(cipher.WithoutSpecial(left.add), use, &s.out)
	if serr == nil {
		s.out.Left = k.nameLeft(left)
		return nil
	}
	s.results.note("sealing: %v", serr)
	s.log.Info("the results stay as an encrypted directory", "reason", terse(serr))
	left.reset()
	s.out.Index, err = k.index(cipher, s.output.id, use, &left)
	if err == nil {
		s.out.Left = k.nameLeft(left)
	}
	switch {
	case err != nil:
		s.results.note("index: %v", err)
		return fmt.Errorf("%w, and no index of them either: %w; "+
			"they stay as an encrypted directory that nothing vouches for", terse(serr), terse(err))
	case left.entries > left.special:
		return errNotAll
	case s.out.Index.Unread > 0:
		return errUnread
	}
	return nil
}

// quiesce makes sure that nobody writes any more and that what was written has
// reached the cipher directory.
func (s *sealed) quiesce() error {
	err := s.space.KillAll()
	if errors.Is(err, sandbox.ErrClosed) {
		// Who held the namespaces has died, and all in them with it; Close waits for that.
		err = nil
		if cerr := s.space.Close(); cerr != nil {
			s.log.Warn("a mount did not end in order", "error", terse(cerr))
		}
	}
	if err != nil {
		return err
	}
	root, err := s.results.root.Open(".")
	if err == nil {
		err = errors.Join(unix.Syncfs(int(root.Fd())), root.Close())
	}
	if s.out.MountLost = err != nil; s.out.MountLost {
		s.log.Warn("the output volume's mount has ended early", "error", terse(err))
	}
	return nil
}

// conclude signs the receipt, unmounts, and removes what is not needed any more.
// It returns why the run ended early, and what went wrong here.
func (s *sealed) conclude() error {
	err := s.writeReceipt()
	if err != nil {
		err = failed(ExitSeal, fmt.Errorf("write the receipt: %w", terse(err)))
	}
	// Without a receipt nothing vouches for the sealed results: both stay.
	s.removeCipherDirs(s.out.Sealed && err == nil)
	return errors.Join(s.err, err)
}

// writeReceipt signs what happened.
func (s *sealed) writeReceipt() error {
	reason := jobdir.Completed
	if s.err != nil {
		reason = reasonOf(exitOf(s.err, ExitManifest))
	}
	jws, err := manifest.SignJWS(manifest.TypeReceipt, s.released.S, manifest.Receipt{
		Run: s.manifest.Run, Manifest: s.digest, Job: s.alloc.job, Node: s.alloc.node, Tier: s.tier,
		Started: s.started.UTC(), Ended: time.Now().UTC(), Exit: s.app, Reason: reason,
		Version: version.String(), Mounts: s.mounts(), Image: s.manifest.Volumes[0].Image, Steps: s.steps, Output: s.out,
	})
	if err != nil {
		return err
	}
	return s.dir.Replace(jobdir.ReceiptName, []byte(jws+"\n"), 0o600)
}

// removeCipherDirs unmounts, then removes the scratch volume, and the output
// volume if it has been sealed.
func (s *sealed) removeCipherDirs(sealed bool) {
	s.unmount()
	names := []string{jobdir.ScratchName}
	if sealed {
		names = append(names, jobdir.CipherDirName)
	}
	for _, name := range names {
		if err := s.dir.RemoveTree(name); err != nil {
			s.log.Warn("cipher directory not removed", "directory", name, "error", terse(err))
		}
	}
}
