package source

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// zstdWindow is the largest window that is inflated, in bytes: that of zstd's
// own program without --long.
const zstdWindow = 128 << 20

// The first bytes of compressed files (RFC 1952, RFC 8878, the .xz format, bzip2).
var (
	magicGzip = []byte{0x1f, 0x8b}
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicXZ   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	magicBzip = []byte("BZh")
)

// inflate returns what r holds, uncompressed. What r begins with says how it is
// compressed, whatever its name. The second result frees what that takes.
func inflate(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 256<<10)
	begin, err := b.Peek(len(magicXZ))
	if err != nil && len(begin) == 0 {
		if err == io.EOF {
			err = fmt.Errorf("%w: it is empty", ErrArchive)
		}
		return nil, nil, err
	}
	free := func() {}
	var out io.Reader = b
	switch {
	case bytes.HasPrefix(begin, magicGzip):
		out, err = gzip.NewReader(b)
	case bytes.HasPrefix(begin, magicZstd):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true)); err == nil {
			out, free = z, z.Close
		}
	case bytes.HasPrefix(begin, magicXZ):
		out, err = xz.NewReader(b)
	case bytes.HasPrefix(begin, magicBzip):
		out, err = bzip2.NewReader(b), nil
	default:
		err = nil // shorter than the longest magic, or not compressed
	}
	if err != nil {
		return nil, nil, broken(err)
	}
	return out, free, nil
}
