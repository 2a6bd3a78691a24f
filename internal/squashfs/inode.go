package squashfs

import "math"

// The types of inodes: the basic ones, and what is added for the extended ones.
const (
	inodeDirectory = 1
	inodeRegular   = 2
	inodeSymlink   = 3
	inodeExtended  = 7
)

// noXattr in an inode's place of extended attributes says that it has none.
const noXattr = math.MaxUint32

// header is what all inodes have.
type header struct {
	mode, uid, gid       uint16
	mtime, number, links uint32
	xattr                uint32
}

func (h header) append(b []byte, typ uint16) []byte {
	for _, v := range [...]uint16{typ, h.mode, h.uid, h.gid} {
		b = le.AppendUint16(b, v)
	}
	return le.AppendUint32(le.AppendUint32(b, h.mtime), h.number)
}

func appendDirectory(b []byte, h header, l *listing, parent uint32) []byte {
	links, size := 2+l.dirs, l.size+3 // readers count 3 bytes for "." and ".."
	if h.xattr == noXattr && l.indexes == 0 && size <= math.MaxUint16 {
		b = h.append(b, inodeDirectory)
		b = le.AppendUint32(b, l.block)
		b = le.AppendUint32(b, links)
		b = le.AppendUint16(b, uint16(size))
		b = le.AppendUint16(b, l.offset)
		return le.AppendUint32(b, parent)
	}
	b = h.append(b, inodeDirectory+inodeExtended)
	b = le.AppendUint32(b, links)
	b = le.AppendUint32(b, size)
	b = le.AppendUint32(b, l.block)
	b = le.AppendUint32(b, parent)
	b = le.AppendUint16(b, l.indexes)
	b = le.AppendUint16(b, l.offset)
	b = le.AppendUint32(b, h.xattr)
	return append(b, l.index...)
}

func appendRegular(b []byte, h header, c *Content) []byte {
	if c == nil {
		c = &Content{fragment: noFragment}
	}
	if h.xattr == noXattr && h.links == 1 && c.sparse == 0 && c.start <= math.MaxUint32 && c.size <= math.MaxUint32 {
		b = h.append(b, inodeRegular)
		b = le.AppendUint32(b, uint32(c.start))
		b = le.AppendUint32(b, c.fragment)
		b = le.AppendUint32(b, c.offset)
		b = le.AppendUint32(b, uint32(c.size))
	} else {
		b = h.append(b, inodeRegular+inodeExtended)
		b = le.AppendUint64(b, c.start)
		b = le.AppendUint64(b, c.size)
		b = le.AppendUint64(b, c.sparse)
		b = le.AppendUint32(b, h.links)
		b = le.AppendUint32(b, c.fragment)
		b = le.AppendUint32(b, c.offset)
		b = le.AppendUint32(b, h.xattr)
	}
	for _, size := range c.blocks {
		b = le.AppendUint32(b, size)
	}
	return b
}

func appendSymlink(b []byte, h header, target string) []byte {
	typ := uint16(inodeSymlink)
	if h.xattr != noXattr {
		typ += inodeExtended
	}
	b = h.append(b, typ)
	b = le.AppendUint32(b, h.links)
	b = le.AppendUint32(b, uint32(len(target)))
	b = append(b, target...)
	if h.xattr != noXattr {
		b = le.AppendUint32(b, h.xattr)
	}
	return b
}
