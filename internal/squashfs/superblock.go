package squashfs

import (
	"io"
	"math"
)

const (
	// SuperblockSize is the length of the first part of an image, which is known last.
	SuperblockSize = 96

	// imageAlign is what the length of an image is a multiple of: the largest block size of the drivers' devices.
	imageAlign = 4096

	// absent stands for the place of a table that the image does not have.
	absent = math.MaxUint64
)

// Flags of the superblock.
const (
	flagTails      = 0x0020 // whatever fills no block is in fragments
	flagDuplicates = 0x0040 // equal files are stored once
	flagExport     = 0x0080
	flagNoXattrs   = 0x0200
)

// superblock is what the beginning of an image says.
type superblock struct {
	inodes, mtime, fragments                   uint32
	compression, flags, ids                    uint16
	root, end                                  uint64
	idTable, xattrTable, inodeTable            uint64
	directoryTable, fragmentTable, exportTable uint64
}

func (s *superblock) encode() (out [SuperblockSize]byte) {
	b := append(out[:0], "hsqs"...)
	for _, v := range [...]uint32{s.inodes, s.mtime, blockSize, s.fragments} {
		b = le.AppendUint32(b, v)
	}
	const blockLog, major, minor = 17, 4, 0
	for _, v := range [...]uint16{s.compression, blockLog, s.flags, s.ids, major, minor} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range [...]uint64{s.root, s.end, s.idTable, s.xattrTable, s.inodeTable, s.directoryTable, s.fragmentTable,
		s.exportTable} {
		b = le.AppendUint64(b, v)
	}
	return out
}

// metadata writes all that follows the contents, and zeros up to the image's end.
func (w *Writer) metadata(root *Node, c *census) (*superblock, error) {
	enc, err := newEncoder(w.o.Compression, w.o.Level)
	if err != nil {
		return nil, err
	}
	s := &superblock{inodes: uint32(len(c.links)), mtime: clamp(w.o.MTime), fragments: uint32(len(w.pipe.fragments)),
		compression: w.o.Compression.id(), flags: flagTails | flagDuplicates | flagExport, inodeTable: w.out.n}
	t := newTree(c, newMetaWriter(w.out, enc))
	if err := t.write(root); err != nil {
		return nil, err
	}
	w.clamped = t.clamped
	s.root = t.refs[c.numbers[root]-1]
	s.ids = uint16(len(t.ids.ids))
	s.directoryTable = w.out.n
	if _, err := t.listed.WriteTo(w.out); err != nil {
		return nil, err
	}
	if err := w.tables(s, t, enc); err != nil {
		return nil, err
	}
	if s.xattrTable == absent {
		s.flags |= flagNoXattrs
	}
	s.end = w.out.n
	return s, writeAll(w.out, make([]byte, -s.end%imageAlign))
}

// tables writes the tables, in the order in which Linux wants them.
func (w *Writer) tables(s *superblock, t *tree, enc encoder) (err error) {
	s.fragmentTable, err = writeTable(w.out, enc, nil, func(m io.Writer) error {
		for _, f := range w.pipe.fragments {
			record := le.AppendUint32(le.AppendUint64(t.scratch[:0], f.start), f.size)
			if err := writeAll(m, le.AppendUint32(record, 0)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.exportTable, err = writeTable(w.out, enc, nil, func(m io.Writer) error {
		for _, ref := range t.refs {
			if err := writeAll(m, le.AppendUint64(t.scratch[:0], ref)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.idTable, err = writeTable(w.out, enc, nil, func(m io.Writer) error {
		for _, id := range t.ids.ids {
			if err := writeAll(m, le.AppendUint32(t.scratch[:0], id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.xattrTable, err = t.xattrs.write(w.out, enc)
	return err
}
