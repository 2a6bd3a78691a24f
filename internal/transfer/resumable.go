package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
)

// ResumableUpload is a file of which digests are known, or will be, so that its upload can go on after a cut:
// what has arrived is held against them. A file that is still being made can be sent meanwhile
// (NewGrowing). Its zero value is not usable.
type ResumableUpload struct {
	Src      io.ReaderAt
	Size     int64
	Segment  int64               // bytes of each segment but the last: a multiple of 1 MiB
	Segments [][sha256.Size]byte // SHA-256 of each
	Progress func(done int64)    // called with the bytes that have arrived so far; may be nil

	making bool // Size and Segments are not known yet
	growth *growth
	mark   int64 // where the piece lies that was sent first
	alone  bool  // other connections than the first have failed

	mu      sync.Mutex
	pieces  []bool // that the server confirmed in this process, or that were read back
	arrived int64  // bytes of them
}

// pieceSize bytes are sent at a time, by one of several writers: two packets would leave the line
// idle between them.
const (
	pieceSize      = 1 << 20
	writersOfALane = 4
)

// Send uploads u to the site under a name that nothing else uses; giving it its final name is up to the
// caller. Whatever an earlier Send left there is read back and compared first, and only the rest is
// sent. On an error what has arrived stays, and another Send, by this process or a later one, goes on;
// only when the site is full (ErrFull) it is removed. ErrSource if Src does not have the digests.
func (u *ResumableUpload) Send(ctx context.Context, fsys FS, name string, mode fs.FileMode) error {
	u.grown()
	f, err := u.open(ctx, fsys, name, mode)
	if err == nil {
		err = u.rest(ctx, fsys, f, name)
		u.grown()
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = u.settle(fsys, f, name, mode)
		}
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	if err = full(fsys, name, err); errors.Is(err, ErrFull) {
		_ = fsys.Remove(name) // it may be what fills the site
	}
	return err
}

// open opens what an earlier Send left, if it has the piece of ours that was sent first: that is what tells it from
// another file that somebody put into its place. Else it starts afresh.
func (u *ResumableUpload) open(ctx context.Context, fsys FS, name string, mode fs.FileMode) (WriteFile, error) {
	info, err := fsys.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && info.Mode().IsRegular() && u.continues(info.Size()) {
		f, err := fsys.Reopen(name)
		if err != nil {
			return nil, err
		}
		ours, err := u.isOurs(f)
		if err == nil && ours {
			return f, u.survey(ctx, f, info.Size())
		}
		if closeErr := f.Close(); err != nil || closeErr != nil {
			return nil, errors.Join(err, closeErr)
		}
	}
	if err == nil {
		if err := fsys.Remove(name); err != nil {
			return nil, fmt.Errorf("removing %s: %w", At(name), err)
		}
	}
	u.afresh()
	return fsys.Create(name, mode)
}

// continues reports whether a file of that size can be the beginning of ours.
func (u *ResumableUpload) continues(size int64) bool {
	if u.making { // nobody else can have sent any of it
		return u.isConfirmed(u.mark)
	}
	return size >= min(pieceSize, u.Size) && size <= u.Size
}

// isOurs reports whether f has the piece that was sent first: the first one, or of a file whose first segment was made
// last, the one behind that. It was not there before the upload began, and nobody can guess it.
func (u *ResumableUpload) isOurs(f io.ReaderAt) (bool, error) {
	if u.making {
		return u.hasPiece(f, u.mark, pieceSize)
	}
	ours, err := u.hasPiece(f, 0, min(pieceSize, u.Size))
	if err == nil && !ours && u.Size >= u.Segment+pieceSize { // less might be in other files, too
		ours, err = u.hasPiece(f, u.Segment, pieceSize)
	}
	return ours, err
}

// hasPiece reports whether f has Src's n bytes at off.
func (u *ResumableUpload) hasPiece(f io.ReaderAt, off, n int64) (bool, error) {
	ours, theirs := make([]byte, n), make([]byte, n)
	if _, err := u.Src.ReadAt(ours, off); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if _, err := f.ReadAt(theirs, off); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading back what has arrived: %w", err)
	}
	return bytes.Equal(ours, theirs), nil
}

// length is that of segment i.
func (u *ResumableUpload) length(i int) int64 { return min(u.Segment, u.Size-int64(i)*u.Segment) }

// survey finds out which segments have arrived. What the server confirmed to this process is taken for
// granted, since reading back takes as long as sending.
func (u *ResumableUpload) survey(ctx context.Context, f WriteFile, size int64) error {
	if u.making {
		return nil
	}
	for i := range u.Segments {
		off := int64(i) * u.Segment
		inside := off+u.length(i) <= size
		if !inside {
			u.confirm(off, u.length(i), false)
		}
		if !inside || u.hasSegment(i) {
			continue
		}
		same, err := u.compare(ctx, f, i)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if same {
			u.confirm(off, u.length(i), true)
		}
	}
	return nil
}

// compare reads a segment of f back.
func (u *ResumableUpload) compare(ctx context.Context, f io.ReaderAt, i int) (bool, error) {
	sum := sha256.New()
	s := &source{ctx: ctx, r: io.NewSectionReader(f, int64(i)*u.Segment, u.length(i))}
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, s, make([]byte, readBack)); err != nil {
		return false, fmt.Errorf("reading back what has arrived: %w", err)
	}
	return [sha256.Size]byte(sum.Sum(nil)) == u.Segments[i], nil
}

// readBack bytes are asked for at a time, in many packets in flight.
const readBack = 8 << 20

// settle makes durable what arrived, checks its size and sets the mode.
func (u *ResumableUpload) settle(fsys FS, f WriteFile, name string, mode fs.FileMode) error {
	info, err := settled(fsys, f, name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != u.Size {
		return fmt.Errorf("%s: %d bytes arrived instead of %d", At(name), info.Size(), u.Size)
	}
	if info.Mode().Perm() == mode.Perm() {
		return nil
	}
	return f.Chmod(mode)
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
		return fail(Error{Kind: ErrFull, What: fmt.Sprintf("no space is left for %s", At(name)), Err: err, Next: hint})
	case errors.Is(err, syscall.EDQUOT):
		return fail(Error{Kind: ErrFull, What: fmt.Sprintf("your quota is used up: no space for %s", At(name)), Err: err, Next: hint})
	case !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxFailure:
		return err
	}
	switch free, freeErr := fsys.Free(path.Dir(name)); {
	case freeErr != nil || free < 0:
		return fail(Error{Kind: ErrFull, Err: err, Next: hint,
			What: fmt.Sprintf("the login node cannot write %s and does not say why; the disk or your quota may be full", At(name))})
	case free <= scarce:
		return fail(Error{Kind: ErrFull, What: fmt.Sprintf("no space is left for %s", At(name)), Err: err, Next: hint})
	}
	return fail(Error{Kind: ErrFull, Err: err,
		What: fmt.Sprintf("the login node cannot write %s although its disk has space left; your quota may be used up", At(name)),
		Next: "look at your quota at the site, and run the same command again"})
}

// OpenResumable opens a file of this machine for Send.
func OpenResumable(local string, segment int64, segments [][sha256.Size]byte) (*ResumableUpload, io.Closer, error) {
	f, err := os.OpenFile(local, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", local)
	}
	if err == nil && (segment <= 0 || segment%pieceSize != 0 ||
		int64(len(segments)) != (info.Size()+segment-1)/segment || len(segments) == 0) {
		err = fail(Error{Kind: ErrSource, What: fmt.Sprintf("%s has %d bytes, which is not the size that it was made with", local, info.Size()),
			Next: "remove it and run the same command again"})
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return &ResumableUpload{Src: f, Size: info.Size(), Segment: segment, Segments: segments}, f, nil
}
