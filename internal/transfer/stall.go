package transfer

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// defaultStall is how long requests may wait without anything moving. It is long, since a site's file
// system may stand still for a while, and writing out a large file (Sync) takes its time.
const defaultStall = 2 * time.Minute

// watched is the way to an SFTP server and back. Liveness checks (Client.keepAlive) are answered by
// sshd, whatever becomes of the SFTP server behind it; so it is watched by itself: when requests wait
// for their answers, and for limit no byte moved in either direction, the connection is given up.
type watched struct {
	r              io.Reader
	w              io.WriteCloser
	limit          time.Duration
	sent, answered packets
	start          time.Time
	moved          atomic.Int64 // when a byte moved last, as nanoseconds since start
	writing        atomic.Int32
	stalled        atomic.Bool
	quickest       atomic.Int64          // answer to a small question, in nanoseconds; 0 until there was one
	broken         atomic.Pointer[error] // how the server broke the protocol (guard)
}

func newWatched(r io.Reader, w io.WriteCloser, limit time.Duration) *watched {
	return &watched{r: r, w: w, limit: limit, start: time.Now()}
}

// watch calls giveUp, once, when the server has stalled. It returns then, or at stop.
func (w *watched) watch(stop <-chan struct{}, giveUp func() error) {
	ticker := time.NewTicker(w.limit / 8)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			waiting := w.sent.n.Load() > w.answered.n.Load() || w.writing.Load() > 0
			if waiting && time.Since(w.start)-time.Duration(w.moved.Load()) > w.limit {
				w.stalled.Store(true)
				_ = giveUp()
				return
			}
		}
	}
}

// asked takes note of a small question that was asked at begin and is answered by now.
func (w *watched) asked(begin time.Time) {
	took := int64(time.Since(begin))
	for best := w.quickest.Load(); (best == 0 || took < best) && !w.quickest.CompareAndSwap(best, took); best = w.quickest.Load() {
	}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.note(&w.answered, p[:n])
	return n, err
}

// piece is an SSH packet of OpenSSH's: Write passes on so much at a time, so that a slow line is seen to move.
const piece = 32 << 10

func (w *watched) Write(p []byte) (int, error) {
	w.writing.Add(1)
	defer w.writing.Add(-1)
	done := 0
	for done < len(p) {
		n, err := w.w.Write(p[done:min(len(p), done+piece)])
		w.note(&w.sent, p[done:done+n])
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close ends what is sent.
func (w *watched) Close() error { return w.w.Close() }

func (w *watched) note(k *packets, p []byte) {
	w.moved.Store(int64(time.Since(w.start)))
	k.pass(p)
}

// lost is the function lost, and says whose fault the end of the connection was.
func (w *watched) lost(err error) error {
	if err != nil && w.stalled.Load() {
		return fail(Error{Kind: ErrConnect, What: fmt.Sprintf("the login node's SFTP server has not answered for %v", w.limit),
			Next: "its file systems may hang: run the same command again when `sftp` to it works"})
	}
	if why := w.broken.Load(); err != nil && why != nil {
		return fail(Error{Kind: ErrProtocol, What: "the login node's SFTP server breaks the protocol", Err: *why,
			Next: "its answer was not used; ask the login node's administrator what serves SFTP there"})
	}
	return lost(err)
}

// lost2 is watched.lost for what also gives a value.
func lost2[T any](w *watched) func(T, error) (T, error) {
	return func(v T, err error) (T, error) { return v, w.lost(err) }
}

// packets counts those of SFTP in a stream: each begins with its length, in four bytes. Every request
// has one answer.
type packets struct {
	n     atomic.Int64
	head  [4]byte
	known int    // bytes of head
	rest  uint32 // of the packet, still to come
}

func (k *packets) pass(p []byte) {
	for len(p) > 0 {
		if k.known < len(k.head) {
			n := copy(k.head[k.known:], p)
			k.known, p = k.known+n, p[n:]
			if k.known < len(k.head) {
				return
			}
			k.rest = binary.BigEndian.Uint32(k.head[:])
		}
		n := min(int64(k.rest), int64(len(p)))
		k.rest, p = k.rest-uint32(n), p[n:]
		if k.rest == 0 {
			k.known = 0
			k.n.Add(1)
		}
	}
}
