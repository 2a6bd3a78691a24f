package squashfs

import (
	"encoding/binary"
	"io"
)

// metaSize is how much of a stream of metadata one metadata block holds.
const metaSize = 8 << 10

var le = binary.LittleEndian

// metaWriter cuts a stream of records into metadata blocks, compresses them and writes them to out.
type metaWriter struct {
	out    io.Writer
	enc    encoder
	buf    []byte // of the block that is being filled, always less than metaSize
	packed []byte
	n      uint64   // bytes written to out
	starts []uint64 // where each block begins, counted from the first
}

func newMetaWriter(out io.Writer, enc encoder) *metaWriter {
	return &metaWriter{out: out, enc: enc, buf: make([]byte, 0, metaSize)}
}

// Write takes in records.
func (m *metaWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		k := min(metaSize-len(m.buf), len(rest))
		m.buf = append(m.buf, rest[:k]...)
		rest = rest[k:]
		if len(m.buf) == metaSize {
			if err := m.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// ref returns the reference to what is written next: where its block begins, and the offset in that uncompressed.
func (m *metaWriter) ref() uint64 { return m.n<<16 | uint64(len(m.buf)) }

// flush ends a block.
func (m *metaWriter) flush() error {
	if len(m.buf) == 0 {
		return nil
	}
	var err error
	if m.packed, err = m.enc.encode(append(m.packed[:0], 0, 0), m.buf); err != nil {
		return err
	}
	size := uint16(len(m.packed) - 2)
	if len(m.packed)-2 >= len(m.buf) {
		m.packed = append(m.packed[:2], m.buf...)
		size = uint16(len(m.buf)) | 1<<15 // not compressed
	}
	le.PutUint16(m.packed, size)
	m.starts = append(m.starts, m.n)
	m.buf = m.buf[:0]
	m.n += uint64(len(m.packed))
	return writeAll(m.out, m.packed)
}

// writeTable writes a table of records: its metadata blocks, the head, and the places of the blocks. It returns where
// the head is.
func writeTable(out *counter, enc encoder, head []byte, records func(io.Writer) error) (uint64, error) {
	base := out.n
	m := newMetaWriter(out, enc)
	if err := records(m); err != nil {
		return 0, err
	}
	if err := m.flush(); err != nil {
		return 0, err
	}
	start := out.n
	list := head
	for _, s := range m.starts {
		list = le.AppendUint64(list, base+s)
	}
	return start, writeAll(out, list)
}
