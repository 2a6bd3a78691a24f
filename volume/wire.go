package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// FormatVersion is the version of the sealed-volume format.
const FormatVersion = 1

// Names of the tar entries, in their order.
const (
	keysName   = "keys.age"
	treeName   = "volume"
	indexName  = "index"
	footerName = "footer"
)

const (
	tarBlock   = 512
	tarTrailer = 2 * tarBlock
	// footerFromEnd is where the footer's data block begins, counted from the
	// end of the file.
	footerFromEnd = tarBlock + tarTrailer
	// afterIndex is what follows the index's data and its padding.
	afterIndex = tarBlock + footerFromEnd
)

// Bounds checked before anything is allocated. They leave room for 67 million
// names.
const (
	maxEntries  = 1 << 26
	maxInflated = 1<<32 - 1
	maxPacked   = 1 << 31
)

var (
	footerMagic = [16]byte{'s', 'e', 'a', 'l', 'b', 'a', 't', 'c', 'h', ' ', 'v', 'o', 'l', 'u', 'm', 'e'}
	indexMagic  = [8]byte{'S', 'B', 'I', 'N', 'D', 'E', 'X', '1'}
	dirMagic    = [8]byte{'S', 'B', 'D', 'I', 'R', 'I', 'X', '1'}
)

// footer says where the index lies. It is not authenticated: every value in it
// is repeated in the index's header, which is.
type footer struct {
	id     ID
	total  int64 // length of the file
	offset int64 // of the index's header
	length int64 // of the sealed index: header, ciphertext, tag
}

const footerUsed = 16 + 4 + 4 + 16 + 8 + 8 + 8

func (f footer) encode() []byte {
	b := append(make([]byte, 0, tarBlock), footerMagic[:]...)
	b = binary.BigEndian.AppendUint32(b, FormatVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, f.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.total))
	b = binary.BigEndian.AppendUint64(b, uint64(f.offset))
	b = binary.BigEndian.AppendUint64(b, uint64(f.length))
	return b[:tarBlock]
}

// parseFooter reads a footer block of a file of the given size.
func parseFooter(b []byte, size int64) (footer, error) {
	if len(b) != tarBlock || !bytes.Equal(b[:16], footerMagic[:]) {
		return footer{}, fmt.Errorf("%w: no footer", ErrFooter)
	}
	if v := binary.BigEndian.Uint32(b[16:]); v != FormatVersion {
		return footer{}, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, FormatVersion)
	}
	f := footer{
		id:     ID(b[24:40]),
		total:  int64(binary.BigEndian.Uint64(b[40:])),
		offset: int64(binary.BigEndian.Uint64(b[48:])),
		length: int64(binary.BigEndian.Uint64(b[56:])),
	}
	if !allZero(b[20:24]) || !allZero(b[footerUsed:]) {
		return footer{}, fmt.Errorf("%w: unused bytes are set", ErrFooter)
	}
	if f.total != size {
		return footer{}, fmt.Errorf("%w: the file has %d bytes, its footer says %d", ErrSize, size, f.total)
	}
	if f.length < indexHeaderSize+tagSize || f.length > indexHeaderSize+tagSize+maxPacked ||
		f.offset < 0 || f.offset%tarBlock != 0 || f.offset+padded(f.length)+afterIndex != size {
		return footer{}, fmt.Errorf("%w: it names an impossible place for the index", ErrFooter)
	}
	return f, nil
}

// readFooter reads the footer of a sealed volume.
func readFooter(r io.ReaderAt, size int64) (footer, error) {
	if size < footerFromEnd || size > maxFileSize {
		return footer{}, fmt.Errorf("%w: %d bytes", ErrFooter, size)
	}
	var b [tarBlock]byte
	if err := readFullAt(r, b[:], size-footerFromEnd); err != nil {
		return footer{}, fmt.Errorf("read the footer: %w", err)
	}
	f, err := parseFooter(b[:], size)
	if errors.Is(err, ErrVersion) && indexOfThisVersion(r, b[:]) {
		return footer{}, fmt.Errorf("%w: %w, while its index is of version %d", ErrFooter, err, FormatVersion)
	}
	return f, err
}

// indexOfThisVersion reports whether a footer of another version leads to an index of this one.
func indexOfThisVersion(r io.ReaderAt, footer []byte) bool {
	want := binary.BigEndian.AppendUint32(bytes.Clone(indexMagic[:]), FormatVersion)
	got := make([]byte, len(want))
	offset := int64(binary.BigEndian.Uint64(footer[48:]))
	return offset >= 0 && readFullAt(r, got, offset) == nil && bytes.Equal(got, want)
}

// indexHeader precedes the encrypted index and is its additional data. In the
// index of a cipher directory, total and offset are 0.
type indexHeader struct {
	magic    [8]byte
	id       ID
	total    int64
	offset   int64
	entries  uint64 // names in the tree, the root not counted
	inflated uint64 // bytes of the index before compression
	packed   uint64 // bytes after compression
	nonce    [12]byte
}

const indexHeaderSize = 96

func (h indexHeader) encode() []byte {
	b := append(make([]byte, 0, indexHeaderSize), h.magic[:]...)
	b = binary.BigEndian.AppendUint32(b, FormatVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.total))
	b = binary.BigEndian.AppendUint64(b, uint64(h.offset))
	b = binary.BigEndian.AppendUint64(b, h.entries)
	b = binary.BigEndian.AppendUint64(b, h.inflated)
	b = binary.BigEndian.AppendUint64(b, h.packed)
	b = append(b, h.nonce[:]...)
	return b[:indexHeaderSize]
}

// parseIndexHeader reads the header of the index that f points to, which is of this version.
func parseIndexHeader(b []byte, f footer) (indexHeader, error) {
	h, err := parseHeader(indexMagic, b, f)
	if errors.Is(err, ErrVersion) {
		err = fmt.Errorf("%w: %w, while the footer is of version %d", ErrIndex, err, FormatVersion)
	}
	return h, err
}

func parseHeader(magic [8]byte, b []byte, f footer) (indexHeader, error) {
	if len(b) != indexHeaderSize || !bytes.Equal(b[:8], magic[:]) {
		return indexHeader{}, fmt.Errorf("%w: no header where it should be", ErrIndex)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != FormatVersion {
		return indexHeader{}, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, FormatVersion)
	}
	h := indexHeader{
		magic:    magic,
		id:       ID(b[16:32]),
		total:    int64(binary.BigEndian.Uint64(b[32:])),
		offset:   int64(binary.BigEndian.Uint64(b[40:])),
		entries:  binary.BigEndian.Uint64(b[48:]),
		inflated: binary.BigEndian.Uint64(b[56:]),
		packed:   binary.BigEndian.Uint64(b[64:]),
		nonce:    [12]byte(b[72:84]),
	}
	switch {
	case !allZero(b[12:16]) || !allZero(b[84:]):
		return indexHeader{}, fmt.Errorf("%w: unused bytes are set", ErrIndex)
	case h.id != f.id || h.total != f.total || h.offset != f.offset:
		return indexHeader{}, fmt.Errorf("%w: footer and index contradict each other", ErrIndex)
	case h.entries > maxEntries || h.inflated > maxInflated || h.inflated < h.entries*minRecord:
		return indexHeader{}, fmt.Errorf("%w: impossible size", ErrIndex)
	case h.packed > maxPacked || int64(h.packed) != f.length-indexHeaderSize-tagSize:
		return indexHeader{}, fmt.Errorf("%w: impossible length", ErrIndex)
	}
	return h, nil
}

func readIndexHeader(r io.ReaderAt, f footer) (indexHeader, []byte, error) {
	b := make([]byte, indexHeaderSize)
	if err := readFullAt(r, b, f.offset); err != nil {
		return indexHeader{}, nil, fmt.Errorf("read the index: %w", err)
	}
	h, err := parseIndexHeader(b, f)
	return h, b, err
}

// newDigest starts the volume digest: SHA-256 over the format version (4 bytes,
// big-endian), the volume id, and then the sealed index with its header.
func newDigest(id ID) hash.Hash {
	d := sha256.New()
	d.Write(binary.BigEndian.AppendUint32(nil, FormatVersion))
	d.Write(id[:])
	return d
}

// ReadDigest computes a volume's digest. It needs no key and proves nothing
// about the volume's content: compare the digest with a signed one.
func ReadDigest(r io.ReaderAt, size int64) (ID, Digest, error) {
	f, err := readFooter(r, size)
	if err != nil {
		return ID{}, Digest{}, err
	}
	if _, _, err := readIndexHeader(r, f); err != nil {
		return ID{}, Digest{}, err
	}
	d := newDigest(f.id)
	n, err := io.Copy(d, io.NewSectionReader(r, f.offset, f.length))
	if err != nil {
		return ID{}, Digest{}, fmt.Errorf("read the index: %w", err)
	}
	if n != f.length {
		return ID{}, Digest{}, fmt.Errorf("read the index: %w: cut short", ErrSize)
	}
	return f.id, Digest(d.Sum(nil)), nil
}

// padded rounds up to whole tar blocks.
func padded(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// readFullAt reads len(b) bytes; a file that ends before them is ErrSize.
func readFullAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: the file ends early", ErrSize)
	}
	return err
}
