// Package inflate reads compressed streams of the formats that tar archives and image layers come in: gzip, zstd, xz
// and bzip2, whole or in several pieces, one after the other.
package inflate

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Window is the largest window of zstd that is inflated, in bytes: that of zstd's own program without --long. It is
// what inflating may take of memory.
const Window = 128 << 20

// Format is how a stream is compressed.
type Format int

// The formats. None is a stream that is not compressed.
const (
	None Format = iota
	Gzip
	Zstd
	XZ
	Bzip2
)

// String returns the format's name.
func (f Format) String() string {
	return [...]string{"uncompressed", "gzip", "zstd", "xz", "bzip2"}[f]
}

// Longest is how many bytes Detect and Encrypted want to see at most.
const Longest = len(ageIntro)

// ageIntro begins files that are encrypted with age (age-encryption.org/v1).
const ageIntro = "age-encryption.org/v1\n"

// Encrypted reports whether a stream that begins like this is encrypted with age, as what HPCS prepared is.
func Encrypted(begin []byte) bool { return bytes.HasPrefix(begin, []byte(ageIntro)) }

// The first bytes of compressed streams (RFC 1952, the .xz format, bzip2; zstd's are in isZstd).
var (
	magicGzip = []byte{0x1f, 0x8b}
	magicXZ   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	magicBzip = []byte("BZh")
)

// Detect returns the format of a stream that begins like this.
func Detect(begin []byte) Format {
	switch {
	case bytes.HasPrefix(begin, magicGzip):
		return Gzip
	case isZstd(begin):
		return Zstd
	case bytes.HasPrefix(begin, magicXZ):
		return XZ
	case bytes.HasPrefix(begin, magicBzip):
		return Bzip2
	}
	return None
}

// isZstd knows the frames of RFC 8878, and its skippable frames, with which a stream may begin as well.
func isZstd(begin []byte) bool {
	return bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(begin) >= 4 && begin[0]&0xf0 == 0x50 && bytes.Equal(begin[1:4], []byte{0x2a, 0x4d, 0x18})
}

// NewReader returns what b holds, uncompressed, to its end. The second result frees what that takes; it is never nil.
func NewReader(b *bufio.Reader, f Format) (io.Reader, func(), error) {
	free := func() {}
	switch f {
	case Gzip:
		r, err := newGzip(b)
		return r, free, err
	case Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(Window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, free, err
		}
		return z, z.Close, nil
	case XZ:
		r, err := xz.NewReader(b)
		return r, free, err
	case Bzip2:
		return newBzip(b), free, nil
	}
	return b, free, nil
}

// ErrTrailing is what else than zeros, with which tapes and disks fill up, follows compressed data.
var ErrTrailing = errors.New("something follows the end of the compressed data: garbage, or data that is not compressed")

// padding reads what follows compressed data: io.EOF if that is nothing or zeros.
func padding(b *bufio.Reader) error {
	for {
		c, err := b.ReadByte()
		switch {
		case err != nil:
			return err
		case c != 0:
			return ErrTrailing
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
		return n, ErrTrailing
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
