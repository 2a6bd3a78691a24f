package noderun

import (
	"context"
	"io/fs"
	"os"
	"sync/atomic"
	"time"
)

// usage is what an output volume holds, and what was done to make it sealable.
type usage struct {
	bytes  int64
	files  int
	opened int // entries that their own owner could not read
}

// Speeds that are counted on beforehand: a busy parallel file system, read and
// written, and only read. A time for each file comes on top.
const (
	sealRate  = 150e6 // bytes per second
	indexRate = 500e6
	perFile   = 200 * time.Microsecond
	walkBase  = time.Second // for the receipt, and what else takes time
)

func (u usage) atRate(bytesPerSecond float64) time.Duration {
	return time.Duration(float64(u.bytes)/bytesPerSecond*float64(time.Second)) + time.Duration(u.files)*perFile
}

// sealTime returns how long sealing takes, indexTime an index with digests,
// walkTime one without.
func (u usage) sealTime() time.Duration  { return u.atRate(sealRate) }
func (u usage) indexTime() time.Duration { return u.atRate(indexRate) + walkBase }
func (u usage) walkTime() time.Duration  { return time.Duration(u.files)*perFile + walkBase }

// sealedBytes estimates a sealed volume's size, a little high: tar headers,
// padding and the index come on top of the content.
func (u usage) sealedBytes() int64 { return u.bytes + int64(u.files)*2048 + 256<<10 }

// tidy adds up a tree of one's own in which nobody writes any more, and makes readable
// what its owner made unreadable: an application's odd umask is no reason to lose its
// results. It goes by descriptors, since encrypted paths can be longer than the system
// takes. What it cannot look at is found, and named, by who reads the tree afterwards.
func (u *usage) tidy(root *os.Root) {
	u.files++
	f, err := root.Open(".")
	if err != nil {
		return
	}
	defer f.Close()
	entries, _ := f.ReadDir(-1)
	for _, e := range entries {
		fi, err := root.Lstat(e.Name())
		switch {
		case err != nil:
			u.files++
		case fi.IsDir():
			u.open(root, fi, 0o500)
			if sub, err := root.OpenRoot(e.Name()); err == nil {
				u.tidy(sub)
				_ = sub.Close()
			}
		case fi.Mode().IsRegular():
			u.files++
			u.bytes += fi.Size()
			u.open(root, fi, 0o400)
		default:
			u.files++
		}
	}
}

// open adds the bits that reading an entry needs.
func (u *usage) open(in *os.Root, fi fs.FileInfo, need fs.FileMode) {
	if fi.Mode().Perm()&need != need && in.Chmod(fi.Name(), fi.Mode()|need) == nil {
		u.opened++
	}
}

// pace is how sealing gets on.
type pace struct {
	begun   time.Time
	total   int64         // bytes
	reserve time.Duration // to be left when sealing ends
	left    func() time.Duration
	done    atomic.Int64 // bytes
}

// paceAfter is when the speed so far begins to count.
const paceAfter = 2 * time.Second

// tooSlow reports that sealing will not end in time, at the speed so far.
func (p *pace) tooSlow() bool {
	left := p.left()
	if left < 0 {
		return false
	}
	need, spent := p.reserve, time.Since(p.begun)
	if spent >= paceAfter {
		done := max(p.done.Load(), 1)
		need += time.Duration(float64(spent) * float64(max(0, p.total-done)) / float64(done))
	}
	return need > left
}

// paced returns a context for sealing that ends as soon as it shows that there is
// not enough time, and where to note the bytes done.
func (s sealer) paced(use usage) (context.Context, *atomic.Int64, func()) {
	ctx, cancel := context.WithCancelCause(s.halt.sealing)
	p := &pace{
		begun: time.Now(), total: use.bytes, reserve: use.walkTime(),
		left: func() time.Duration { return s.halt.left(s.alloc) },
	}
	go p.watch(ctx, cancel)
	return ctx, &p.done, func() { cancel(nil) }
}

func (p *pace) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if p.tooSlow() {
				cancel(errNoTime)
				return
			}
		}
	}
}
