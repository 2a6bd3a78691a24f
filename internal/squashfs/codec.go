package squashfs

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// encoder compresses blocks, one at a time. What it does with a block depends on nothing but the block.
type encoder interface {
	// encode appends the compressed form of src to dst.
	encode(dst, src []byte) ([]byte, error)
}

// newEncoder returns an encoder that is used again for every block of one goroutine.
func newEncoder(c Compression, level int) (encoder, error) {
	switch c {
	case Gzip:
		if level == 0 {
			level = 6
		}
		if level < 1 || level > 9 {
			return nil, fmt.Errorf("squashfs: gzip has levels 1 to 9, not %d", level)
		}
		e := &zlibEncoder{}
		var err error
		e.w, err = zlib.NewWriterLevel(&e.out, level)
		return e, err
	case Zstd:
		if level == 0 {
			level = 3
		}
		if level < 1 || level > 9 {
			return nil, fmt.Errorf("squashfs: zstd has levels 1 to 9 here, not %d", level)
		}
		return newZstdEncoder(level)
	}
	return nil, fmt.Errorf("squashfs: no such compression: %d", c)
}

// id returns the superblock's name of the compression.
func (c Compression) id() uint16 {
	if c == Zstd {
		return 6
	}
	return 1
}

type zlibEncoder struct {
	w   *zlib.Writer
	out bytes.Buffer
}

func (e *zlibEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out.Reset()
	e.w.Reset(&e.out)
	if _, err := e.w.Write(src); err != nil {
		return nil, err
	}
	if err := e.w.Close(); err != nil {
		return nil, err
	}
	return append(dst, e.out.Bytes()...), nil
}

type zstdEncoder struct{ w *zstd.Encoder }

// newZstdEncoder keeps the window within a block: Linux allots no more to decompress one.
func newZstdEncoder(level int) (encoder, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(blockSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	return zstdEncoder{w}, err
}

func (e zstdEncoder) encode(dst, src []byte) ([]byte, error) { return e.w.EncodeAll(src, dst), nil }
