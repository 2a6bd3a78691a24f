package transfer

import (
	"context"
	"crypto/sha256"
	"io"
	"sync"
)

// growth is how far a file is that is still being made.
type growth struct {
	mu       sync.Mutex
	final    int64 // what lies before is written last
	size     int64
	segments [][sha256.Size]byte
	end      bool
	failed   error
	changed  chan struct{} // closed at the next change
}

// NewGrowing returns the upload of a file that is sent while it is written to src. Send then ends once Finish was
// called, or Abandon. What is written last of the file is sent last.
func NewGrowing(src io.ReaderAt, segment int64) *ResumableUpload {
	return &ResumableUpload{Src: src, Segment: segment, making: true, growth: &growth{changed: make(chan struct{})}}
}

// Grow reports that src has that many bytes by now, and that those before final are not yet what they will be, but for
// those that earlier calls told of as final. final never becomes less, and is a multiple of 1 MiB.
func (u *ResumableUpload) Grow(final, size int64) {
	u.growth.change(func(g *growth) { g.final, g.size = final, size })
}

// Finish reports that src is complete, and what it is.
func (u *ResumableUpload) Finish(size int64, segments [][sha256.Size]byte) {
	u.growth.change(func(g *growth) { g.final, g.size, g.segments, g.end = 0, size, segments, true })
}

// Abandon has Send end with an error.
func (u *ResumableUpload) Abandon(err error) { u.growth.change(func(g *growth) { g.failed = err }) }

// grown makes u like any other once its file is complete. Send alone calls it.
func (u *ResumableUpload) grown() {
	if !u.making {
		return
	}
	u.growth.mu.Lock()
	defer u.growth.mu.Unlock()
	if u.growth.end {
		u.Size, u.Segments, u.making = u.growth.size, u.growth.segments, false
	}
}

// feedMade reads the file while it is made: from its beginning to its end, and then what was not final until that.
func (s *sending) feedMade(ctx context.Context) error {
	var held, final int64
	unmarked := !s.isConfirmed(s.mark)
	for off := int64(0); ; off += pieceSize {
		at, n, err := s.growth.wait(ctx, off, pieceSize)
		if err != nil {
			return err
		}
		if n <= 0 {
			break
		}
		if at > off {
			held, final, off = off, at, at
		}
		if unmarked {
			s.mark, unmarked = off, false
		}
		if err := s.readMade(ctx, off, n); err != nil {
			return err
		}
	}
	for off := held; off < final; off += pieceSize {
		if err := s.readMade(ctx, off, pieceSize); err != nil {
			return err
		}
	}
	return nil
}

func (s *sending) readMade(ctx context.Context, off, n int64) error {
	if s.isConfirmed(off) {
		return nil
	}
	return s.read(ctx, off, n, nil)
}

func (g *growth) change(how func(*growth)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	how(g)
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait waits for n bytes at off, or if they are not final, at the first place behind that is, and returns where they
// are and how many there are: fewer only at the end.
func (g *growth) wait(ctx context.Context, off, n int64) (at, there int64, err error) {
	for {
		g.mu.Lock()
		at, size, end, err, changed := max(off, g.final), g.size, g.end, g.failed, g.changed
		g.mu.Unlock()
		switch {
		case err != nil:
			return 0, 0, err
		case size >= at+n || end:
			return at, min(n, size-at), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}
