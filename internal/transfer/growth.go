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
	size     int64
	segments [][sha256.Size]byte
	end      bool
	failed   error
	changed  chan struct{} // closed at the next change
}

// NewGrowing returns the upload of a file that is sent while it is written to src. Send then ends once Finish was called,
// or Abandon.
func NewGrowing(src io.ReaderAt, segment int64) *ResumableUpload {
	return &ResumableUpload{Src: src, Segment: segment, making: true, growth: &growth{changed: make(chan struct{})}}
}

// Grow reports that src has that many bytes by now.
func (u *ResumableUpload) Grow(size int64) { u.growth.change(func(g *growth) { g.size = size }) }

// Finish reports that src is complete, and what it is.
func (u *ResumableUpload) Finish(size int64, segments [][sha256.Size]byte) {
	u.growth.change(func(g *growth) { g.size, g.segments, g.end = size, segments, true })
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

func (g *growth) change(how func(*growth)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	how(g)
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait waits for n bytes at off and returns how many there are: fewer only at the end.
func (g *growth) wait(ctx context.Context, off, n int64) (int64, error) {
	for {
		g.mu.Lock()
		size, end, err, changed := g.size, g.end, g.failed, g.changed
		g.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case size >= off+n || end:
			return min(n, size-off), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
