package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/progress"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// upload is the sealed file on its way to its partial name on the site. It begins
// while the file is still being made, if it is made now. Its methods may be called
// on a nil *upload, where they do nothing.
type upload struct {
	resumable  *transfer.ResumableUpload
	local      io.Closer
	done, most atomic.Int64 // bytes that have arrived: by now, and ever
	bar        atomic.Pointer[progress.Bar]
	ended      chan struct{} // closed when err is known
	err        error
}

// sendMeanwhile begins to upload what is being sealed. Only where it cannot be
// read while it is made, it is uploaded afterwards.
func (p *publishing) sendMeanwhile(ctx context.Context, id volume.ID, made io.ReaderAt) {
	f, ok := made.(*os.File)
	if !ok {
		return
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // f is closed when it is sealed
	if err != nil {
		return
	}
	local := os.NewFile(uintptr(fd), f.Name())
	p.s.ID = id
	if err := p.writeCheckpoint(); err != nil { // so that a later run removes what this one leaves on the site
		p.Log.Warn("no checkpoint of the upload can be written: uploading when it is sealed", "error", err)
		local.Close()
		return
	}
	p.begin(ctx, transfer.NewGrowing(local, volume.SegmentSize), local)
}

// sendSealed begins to upload a sealed file of an earlier run.
func (p *publishing) sendSealed(ctx context.Context) error {
	r, local, err := transfer.OpenResumable(p.local(), volume.SegmentSize, digests(p.s.Segments))
	if err == nil {
		p.begin(ctx, r, local)
	}
	return err
}

func digests(segments []volume.Digest) [][sha256.Size]byte {
	out := make([][sha256.Size]byte, len(segments))
	for i, s := range segments {
		out[i] = s
	}
	return out
}

// begin starts the upload, which goes on over new connections when one breaks.
func (p *publishing) begin(ctx context.Context, r *transfer.ResumableUpload, local io.Closer) {
	u := &upload{resumable: r, local: local, ended: make(chan struct{})}
	p.sent = u
	r.Progress = func(n int64) {
		u.done.Store(n)
		if bar := u.bar.Load(); bar != nil {
			(*bar).Update(n, 0)
		}
	}
	moved := func() bool {
		done := u.done.Load()
		forward := done > u.most.Load()
		u.most.Store(max(u.most.Load(), done))
		return forward
	}
	partial := p.partial()
	go func() {
		defer close(u.ended)
		u.err = p.withReconnect(ctx, moved, func(fsys transfer.FS) error { return r.Send(ctx, fsys, partial, SealedMode) })
		moved()
	}()
}

// grow tells the upload how much there is of the file that is being made, and from where on it is final.
func (u *upload) grow(final, size int64) {
	if u != nil {
		u.resumable.Grow(final, size)
	}
}

// finish tells the upload that the file is made.
func (u *upload) finish(s volume.Sealed) {
	if u != nil {
		u.resumable.Finish(s.Size, digests(s.Segments))
	}
}

// abandon ends the upload of a file that will never be published, and removes it.
func (u *upload) abandon(p *publishing) {
	if u == nil {
		return
	}
	u.resumable.Abandon(context.Canceled)
	<-u.ended
	_ = u.local.Close()
	if err := p.site().Remove(p.partial()); err == nil || errors.Is(err, fs.ErrNotExist) {
		p.removeCheckpoint() // else a later run removes it
	}
}

// wait waits for the end of the upload and shows how it goes.
func (u *upload) wait(p *publishing) error {
	defer u.local.Close()
	bar := p.Progress.Start("uploading "+filepath.Base(p.r.SealedPath), u.done.Load(), p.s.Size)
	u.bar.Store(&bar)
	<-u.ended
	bar.End(u.err == nil)
	return u.err
}
