package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// part is a stretch of the file on its way.
type part struct {
	off int64
	buf []byte
}

// rest sends the pieces that have not arrived, over more connections where that makes it faster.
func (u *ResumableUpload) rest(ctx context.Context, fsys FS, f WriteFile, name string) error {
	for {
		err := u.send(ctx, fsys, f, name)
		if !errors.Is(err, errLane) || u.alone || ctx.Err() != nil {
			return err
		}
		u.alone = true
	}
}

// errLane: a connection other than the first failed. The first can do without.
var errLane = errors.New("a further connection failed")

func (u *ResumableUpload) send(ctx context.Context, fsys FS, f WriteFile, name string) error {
	group, ctx := errgroup.WithContext(ctx)
	s := &sending{ResumableUpload: u, group: group, work: make(chan part),
		free: make(chan []byte, maxLanes*writersOfALane), begun: make(chan struct{})}
	for range cap(s.free) {
		s.free <- nil // allocated when it is needed
	}
	if u.isConfirmed(u.mark) {
		close(s.begun)
	}
	feeding, fed := context.WithCancel(ctx)
	group.Go(func() error {
		defer fed()
		defer close(s.work)
		return s.feed(ctx)
	})
	s.lane(f, nil)
	hangUp := func() {}
	if more, ok := fsys.(laned); ok && !u.alone {
		group.Go(func() error {
			if s.large(feeding) {
				hangUp = more.lanes(feeding, func(fsys FS) { s.join(feeding, fsys, name) })
			}
			return nil
		})
	}
	err := group.Wait()
	hangUp()
	return err
}

// sending is one try to send a file.
type sending struct {
	*ResumableUpload
	group *errgroup.Group
	work  chan part
	free  chan []byte
	begun chan struct{} // closed when the piece at mark has arrived
}

// lane has pieces written to f, several at once. failed, if not nil, comes with its errors.
func (s *sending) lane(f WriteFile, failed error) {
	for range writersOfALane {
		s.group.Go(func() error {
			for p := range s.work {
				_, err := f.WriteAt(p.buf, p.off)
				s.free <- p.buf[:cap(p.buf)]
				if err != nil {
					return errors.Join(failed, err)
				}
				if s.confirm(p.off, int64(len(p.buf)), true); p.off == s.mark {
					close(s.begun)
				}
			}
			return nil
		})
	}
}

// large reports whether the file is, or becomes, one that is worth more lanes.
func (s *sending) large(ctx context.Context) bool {
	if !s.making {
		return s.Size >= worthLanes
	}
	_, n, err := s.growth.wait(ctx, 0, worthLanes)
	return err == nil && n >= worthLanes
}

// join has a further lane help, if what it finds under the name is our file: links are followed there.
func (s *sending) join(ctx context.Context, fsys FS, name string) {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return
	}
	f, err := fsys.Reopen(name)
	if err != nil {
		return
	}
	if ours, err := s.isOurs(f); err != nil || !ours {
		_ = f.Close()
		return
	}
	s.lane(f, errLane) // it is closed with its connection
}

// feed reads the file from its beginning to its end, as far as it has not arrived, and holds it against
// the digests if they are known.
func (s *sending) feed(ctx context.Context) error {
	if s.making {
		return s.feedMade(ctx)
	}
	sum := sha256.New()
	for i, want := range s.Segments {
		if s.hasSegment(i) {
			continue
		}
		sum.Reset()
		first, end := int64(i)*s.Segment, int64(i)*s.Segment+s.length(i)
		for off := first; off < end; off += pieceSize {
			if err := s.read(ctx, off, min(pieceSize, end-off), sum); err != nil {
				return err
			}
		}
		if [sha256.Size]byte(sum.Sum(nil)) != want {
			s.confirm(first, end-first, false)
			return fail(Error{Kind: ErrSource, What: "the sealed file on this machine is not the one that was made: " +
				"somebody changed it, or its disk is failing",
				Next: "remove it and run the same command again"})
		}
	}
	return nil
}

// read reads a piece and has it sent, unless it has arrived.
func (s *sending) read(ctx context.Context, off, n int64, sum io.Writer) error {
	var buf []byte
	select {
	case buf = <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	if buf == nil {
		buf = make([]byte, pieceSize)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(io.NewSectionReader(s.Src, off, n), buf); err != nil {
		return fmt.Errorf("reading what is to be sent: %w", err)
	}
	if sum != nil {
		_, _ = sum.Write(buf)
		if s.isConfirmed(off) {
			s.free <- buf[:cap(buf)]
			return nil
		}
	}
	select {
	case s.work <- part{off, buf}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confirm notes whether the pieces from off on, n bytes, are on the site.
func (u *ResumableUpload) confirm(off, n int64, are bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for ; n > 0; off, n = off+pieceSize, n-pieceSize {
		i := int(off / pieceSize)
		for i >= len(u.pieces) {
			u.pieces = append(u.pieces, false)
		}
		if was := u.pieces[i]; are && !was {
			u.arrived += min(n, pieceSize)
		} else if was && !are {
			u.arrived -= min(n, pieceSize)
		}
		u.pieces[i] = are
	}
	if u.Progress != nil {
		u.Progress(u.arrived)
	}
}

// afresh forgets what has arrived.
func (u *ResumableUpload) afresh() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pieces, u.arrived, u.mark = nil, 0, 0
}

func (u *ResumableUpload) isConfirmed(off int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := off / pieceSize
	return i < int64(len(u.pieces)) && u.pieces[i]
}

// hasSegment reports whether all of segment i is confirmed.
func (u *ResumableUpload) hasSegment(i int) bool {
	for off := int64(0); off < u.length(i); off += pieceSize {
		if !u.isConfirmed(int64(i)*u.Segment + off) {
			return false
		}
	}
	return true
}
