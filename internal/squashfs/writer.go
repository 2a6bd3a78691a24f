package squashfs

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"
)

// Compression is how blocks are compressed.
type Compression int

// Gzip is read by every driver; Zstd by Linux from 4.14 on, and by a squashfuse that was built with it.
const (
	Gzip Compression = iota
	Zstd
)

// Options say how an image is written.
type Options struct {
	Compression Compression
	Level       int       // 1 to 9; 0: 6 with Gzip, 3 with Zstd, whose higher ones take 50 MiB a worker
	Workers     int       // goroutines that compress; 0: one for each processor, at most 8
	MTime       time.Time // of the image as a whole
}

// maxWorkers bounds the memory for encoders and for blocks on their way, 2 to 8 MiB a worker. Eight compress faster
// than contents can be had.
const maxWorkers = 8

// Writer writes one image. Its methods are not for several goroutines at once.
type Writer struct {
	o       Options
	out     *counter
	pipe    *pipeline
	store   *store
	clamped int
	err     error // of a call before; or errEnded
}

var errEnded = errors.New("squashfs: the image has been ended")

// NewWriter begins an image. Everything but its first [SuperblockSize] bytes goes to out, in order, from
// goroutines that end with [Writer.Finish], [Writer.Close] or ctx.
func NewWriter(ctx context.Context, out io.Writer, o Options) (*Writer, error) {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	w := &Writer{o: o, out: &counter{w: out, n: SuperblockSize}}
	var err error
	if w.pipe, err = startPipeline(ctx, w.out, o); err != nil {
		return nil, err
	}
	w.store = newStore(w.pipe)
	return w, nil
}

// Add takes in content of exactly size bytes, after which r must end. After an error, the image cannot be finished.
func (w *Writer) Add(r io.Reader, size int64) (*Content, error) {
	if w.err != nil {
		return nil, w.err
	}
	c, err := w.store.add(r, size)
	w.err = err
	return c, err
}

// Finish writes the tree and returns the superblock and the size of the whole image, a multiple of 4096.
func (w *Writer) Finish(root *Node) (superblock [SuperblockSize]byte, size int64, err error) {
	if w.err != nil {
		return superblock, 0, w.err
	}
	defer w.Close()
	c, err := takeCensus(root)
	if err != nil {
		return superblock, 0, err
	}
	if err := w.store.flush(); err != nil {
		return superblock, 0, err
	}
	if err := w.pipe.finish(); err != nil {
		return superblock, 0, err
	}
	s, err := w.metadata(root, c)
	if err != nil {
		return superblock, 0, err
	}
	return s.encode(), int64(w.out.n), nil
}

// ClampedTimes returns how many inodes had a time that the format cannot hold, once the image is finished.
func (w *Writer) ClampedTimes() int { return w.clamped }

// Close stops the goroutines of an image that will not be finished. After Finish it does nothing.
func (w *Writer) Close() {
	w.pipe.abort()
	if w.err == nil {
		w.err = errEnded
	}
}

// Create writes an image to dst. fill adds the contents and returns the tree. Create returns the image's size.
func Create(ctx context.Context, dst io.WriterAt, o Options, fill func(*Writer) (*Node, error)) (int64, error) {
	w, err := NewWriter(ctx, io.NewOffsetWriter(dst, SuperblockSize), o)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	root, err := fill(w)
	if err != nil {
		return 0, err
	}
	superblock, size, err := w.Finish(root)
	if err != nil {
		return 0, err
	}
	_, err = dst.WriteAt(superblock[:], 0)
	return size, err
}
