package squashfs

import (
	"context"
	"errors"
	"io"
	"time"
)

// SuperblockSize is the length of the first part of an image, which is known last.
const SuperblockSize = 96

// Compression is how blocks are compressed.
type Compression int

// Gzip is read by every driver; Zstd by Linux from 4.14 on and squashfuse that was built with it.
const (
	Gzip Compression = iota
	Zstd
)

// Options say how an image is written.
type Options struct {
	Compression Compression
	Level       int       // of the compressor; 0: 6 with Gzip, 3 with Zstd
	Workers     int       // goroutines that compress; 0: one for each processor, at most 16
	MTime       time.Time // of the image as a whole
}

// Writer writes one image.
type Writer struct{}

// NewWriter begins an image. Everything but its first [SuperblockSize] bytes goes to out, in order.
func NewWriter(ctx context.Context, out io.Writer, o Options) (*Writer, error) {
	return nil, errors.ErrUnsupported
}

// Add takes in content of exactly size bytes.
func (w *Writer) Add(r io.Reader, size int64) (*Content, error) { return nil, errors.ErrUnsupported }

// Finish writes the tree and returns the superblock and the size of the whole image, a multiple of 4096.
func (w *Writer) Finish(root *Node) (superblock [SuperblockSize]byte, size int64, err error) {
	return superblock, 0, errors.ErrUnsupported
}

// ClampedTimes returns how many inodes have a time that the format cannot hold, once the image is finished.
func (w *Writer) ClampedTimes() int { return 0 }

// Close stops the workers. It does nothing after Finish.
func (w *Writer) Close() {}

// Create writes an image to dst, where fill adds contents and returns the tree. It returns the image's size.
func Create(ctx context.Context, dst io.WriterAt, o Options, fill func(*Writer) (*Node, error)) (int64, error) {
	return 0, errors.ErrUnsupported
}
