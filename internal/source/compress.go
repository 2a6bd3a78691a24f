package source

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
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
		out, err = newGzip(b)
	case bytes.HasPrefix(begin, magicZstd):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true)); err == nil {
			out, free = z, z.Close
		}
	case bytes.HasPrefix(begin, magicXZ):
		out, err = xz.NewReader(b)
	case bytes.HasPrefix(begin, magicBzip):
		out, err = newBzip(b), nil
	default:
		err = nil // shorter than the longest magic, or not compressed
	}
	if err != nil {
		return nil, nil, broken(err)
	}
	return out, free, nil
}

// errTrailing is what else than zeros, with which tapes and disks fill up, follows compressed data.
var errTrailing = fmt.Errorf("%w: something follows the end of the compressed data: garbage, or data that is not compressed", ErrArchive)

// padding reads what follows compressed data: io.EOF if that is nothing or zeros.
func padding(b *bufio.Reader) error {
	for {
		c, err := b.ReadByte()
		switch {
		case err != nil:
			return err
		case c != 0:
			return errTrailing
		}
	}
}

// gzipMembers are one gzip member after the other, as gzip reads them.
type gzipMembers struct {
	b *bufio.Reader
	z *gzip.Reader
}

func newGzip(b *bufio.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gzipMembers{b, z}, nil
}

// Read implements io.Reader.
func (g *gzipMembers) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != io.EOF || n > 0 {
		if err == io.EOF {
			err = nil // it comes again
		}
		return n, err
	}
	next, err := g.b.Peek(len(magicGzip))
	if !bytes.Equal(next, magicGzip) {
		if err != nil && err != io.EOF {
			return 0, err
		}
		return 0, padding(g.b)
	}
	if err := g.z.Reset(g.b); err != nil {
		return 0, err
	}
	g.z.Multistream(false)
	return 0, nil
}

// bzipStreams are bzip2 streams, whose reader goes from one to the next by itself.
type bzipStreams struct {
	b *watched
	z io.Reader
}

func newBzip(b *bufio.Reader) io.Reader {
	w := &watched{Reader: b}
	return &bzipStreams{w, bzip2.NewReader(w)}
}

// errNoStream is what compress/bzip2 says where something else than a stream follows one.
const errNoStream = bzip2.StructuralError("bad magic value in continuation file")

// Read implements io.Reader.
func (z *bzipStreams) Read(p []byte) (int, error) {
	n, err := z.z.Read(p)
	if !errors.Is(err, errNoStream) {
		return n, err
	}
	if z.b.last != [2]byte{} {
		return n, errTrailing
	}
	return n, padding(z.b.Reader)
}

// watched remembers the last two bytes that were read, one by one.
type watched struct {
	*bufio.Reader
	last [2]byte
}

// ReadByte implements io.ByteReader.
func (w *watched) ReadByte() (byte, error) {
	c, err := w.Reader.ReadByte()
	if err == nil {
		w.last = [2]byte{w.last[1], c}
	}
	return c, err
}
