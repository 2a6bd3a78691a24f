package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/pkg/sftp"
)

// Whole is a finished file of which digests are known, so that its upload can go on after a cut: what
// has arrived is held against them. Its zero value is not usable.
type Whole struct {
	Src      io.ReaderAt
	Size     int64
	Segment  int64               // bytes of each segment but the last
	Segments [][sha256.Size]byte // SHA-256 of each
	Progress func(done int64)    // called with the bytes that have arrived so far; may be nil

	arrived []bool // segments that the server confirmed in this process
}

// Send brings w to the site under a name that nothing else uses; giving it its final name is up to the
// caller. Whatever an earlier Send left there is read back and compared first, and only the rest is
// sent. On an error what has arrived stays, and another Send, by this process or a later one, goes on;
// only when the site is full (ErrFull) it is removed. ErrSource if Src does not have the digests.
func (w *Whole) Send(ctx context.Context, fsys FS, name string, mode fs.FileMode) error {
	f, err := w.open(ctx, fsys, name)
	if err == nil {
		err = w.rest(ctx, f)
		if err == nil {
			err = f.Sync()
		}
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	if err == nil {
		err = w.settle(fsys, name, mode)
	}
	if err = full(fsys, name, err); errors.Is(err, ErrFull) {
		_ = fsys.Remove(name) // it may be what fills the site
	}
	return err
}

// open opens what an earlier Send left, if its first segment is ours: that is what tells it from
// another file that somebody put into its place. Else it starts afresh.
func (w *Whole) open(ctx context.Context, fsys FS, name string) (WriteFile, error) {
	info, err := fsys.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && info.Mode().IsRegular() && info.Size() >= w.length(0) {
		f, err := fsys.Reopen(name)
		if err != nil {
			return nil, err
		}
		ours, err := w.compare(ctx, f, 0)
		if err == nil && ours && info.Size() <= w.Size {
			return f, w.survey(ctx, f, info.Size())
		}
		if closeErr := f.Close(); err != nil || closeErr != nil {
			return nil, errors.Join(err, closeErr)
		}
	}
	if err == nil {
		if err := fsys.Remove(name); err != nil {
			return nil, fmt.Errorf("removing %s: %w", name, err)
		}
	}
	w.arrived = make([]bool, len(w.Segments))
	return fsys.Create(name, 0o600)
}

// length is that of segment i.
func (w *Whole) length(i int) int64 { return min(w.Segment, w.Size-int64(i)*w.Segment) }

// survey finds out which segments have arrived. Those that the server confirmed to this process are
// taken for granted, since reading back takes as long as sending.
func (w *Whole) survey(ctx context.Context, f WriteFile, size int64) error {
	if w.arrived == nil {
		w.arrived = make([]bool, len(w.Segments))
	}
	w.arrived[0] = true
	for i := range w.Segments {
		inside := int64(i)*w.Segment+w.length(i) <= size
		if w.arrived[i] = w.arrived[i] && inside; w.arrived[i] || !inside {
			continue
		}
		same, err := w.compare(ctx, f, i)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		w.arrived[i] = same
		w.report(0)
	}
	return nil
}

// compare reads a segment of f back.
func (w *Whole) compare(ctx context.Context, f io.ReaderAt, i int) (bool, error) {
	sum := sha256.New()
	s := &source{ctx: ctx, r: io.NewSectionReader(f, int64(i)*w.Segment, w.length(i))}
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, s, make([]byte, readBack)); err != nil {
		return false, fmt.Errorf("reading back what has arrived: %w", err)
	}
	return [sha256.Size]byte(sum.Sum(nil)) == w.Segments[i], nil
}

// readBack bytes are asked for at a time, in many packets in flight.
const readBack = 8 << 20

// rest sends the segments that have not arrived.
func (w *Whole) rest(ctx context.Context, f WriteFile) error {
	at := int64(-1)
	for i := range w.Segments {
		if w.arrived[i] {
			continue
		}
		if off := int64(i) * w.Segment; off != at {
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			at = off
		}
		s := &source{ctx: ctx, r: io.NewSectionReader(w.Src, at, w.length(i)), hash: sha256.New(), progress: w.report}
		n, err := f.ReadFrom(s)
		if err != nil {
			return err
		}
		if n != w.length(i) || [sha256.Size]byte(s.hash.Sum(nil)) != w.Segments[i] {
			return &Error{Kind: ErrSource, What: "the sealed file on this machine is not the one that was made: somebody changed it, or its disk is failing",
				Next: "remove it and run the same command again"}
		}
		w.arrived[i] = true
		at += n
	}
	return nil
}

// report tells how much has arrived, more bytes of the next segment included.
func (w *Whole) report(more int64) {
	if w.Progress == nil {
		return
	}
	for i, ok := range w.arrived {
		if ok {
			more += w.length(i)
		}
	}
	w.Progress(more)
}

// settle checks the size that arrived and sets the mode.
func (w *Whole) settle(fsys FS, name string, mode fs.FileMode) error {
	info, err := fsys.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != w.Size {
		return fmt.Errorf("%s: %d bytes arrived instead of %d", name, info.Size(), w.Size)
	}
	return fsys.Chmod(name, mode)
}

// scarce bytes or less are as good as none: file systems keep some back, and write whole blocks.
const scarce = 1 << 20

// full turns an error of writing name into ErrFull if that is why. SFTP has only one code for all
// that can go wrong, so the server is asked how much space it has left.
func full(fsys FS, name string, err error) error {
	var status *sftp.StatusError
	hint := "make space there, or ask the site for more, and run the same command again"
	switch {
	case err == nil || errors.Is(err, ErrConnect) || errors.Is(err, ErrFull):
		return err
	case errors.Is(err, syscall.ENOSPC):
		return &Error{Kind: ErrFull, What: fmt.Sprintf("no space is left for %s", name), Err: err, Next: hint}
	case errors.Is(err, syscall.EDQUOT):
		return &Error{Kind: ErrFull, What: fmt.Sprintf("your quota is used up: no space for %s", name), Err: err, Next: hint}
	case !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxFailure:
		return err
	}
	switch free, freeErr := fsys.Free(path.Dir(name)); {
	case freeErr != nil || free < 0:
		return &Error{Kind: ErrFull, What: fmt.Sprintf("the login node cannot write %s and does not say why; the disk or your quota may be full", name), Err: err, Next: hint}
	case free <= scarce:
		return &Error{Kind: ErrFull, What: fmt.Sprintf("no space is left for %s", name), Err: err, Next: hint}
	}
	return &Error{Kind: ErrFull, What: fmt.Sprintf("the login node cannot write %s although its disk has space left; your quota may be used up", name), Err: err,
		Next: "look at your quota at the site, and run the same command again"}
}

// OpenWhole opens a file of this machine for Send.
func OpenWhole(local string, segment int64, segments [][sha256.Size]byte) (*Whole, io.Closer, error) {
	f, err := os.OpenFile(local, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", local)
	}
	if err == nil && (segment <= 0 || int64(len(segments)) != (info.Size()+segment-1)/segment || len(segments) == 0) {
		err = &Error{Kind: ErrSource, What: fmt.Sprintf("%s has %d bytes, which is not the size that it was made with", local, info.Size()),
			Next: "remove it and run the same command again"}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return &Whole{Src: f, Size: info.Size(), Segment: segment, Segments: segments}, f, nil
}
