package layers

import (
	"cmp"

	"github.com/sealbatch/sealbatch/internal/text"
)

// Limits bound what an image may make of little: time, memory and the size of what it becomes. They
// hold for all layers together. Zero fields stand for the defaults.
type Limits struct {
	Layers  int   // 1000; Docker itself takes 127
	Entries int   // entries of the layers, and directories that they imply: 2,000,000
	Names   int64 // bytes of names, link targets and attributes, which are held in memory: 256 MiB
	Bytes   int64 // of the layers uncompressed, holes of sparse files counted, and compressed as well: 1 TiB
	Ratio   int64 // of uncompressed to compressed bytes, beyond Slack: 200
	Slack   int64 // uncompressed bytes from which on Ratio is looked at: 4 GiB
	Path    int   // bytes of a path: 4095, Linux's PATH_MAX without its zero
	Depth   int   // of directories: 1000
}

// Bounds that are Linux's own, in bytes.
const (
	maxName   = 255      // a name in a directory
	maxTarget = 4095     // a symbolic link's
	maxXattr  = 64 << 10 // an attribute's value (XATTR_SIZE_MAX), and here all attributes of one file
	maxFollow = 40       // symbolic links on the way to a file
	maxSteps  = 4096     // names on the way to a file, those in links included
	entryCost = 16       // what Names counts for an entry beside its name
)

func (l Limits) withDefaults() Limits {
	l.Layers = min(cmp.Or(l.Layers, 1000), maxLayers)
	l.Entries = cmp.Or(l.Entries, 2_000_000)
	l.Names = cmp.Or(l.Names, 256<<20)
	l.Bytes = cmp.Or(l.Bytes, 1<<40)
	l.Ratio = cmp.Or(l.Ratio, 200)
	l.Slack = cmp.Or(l.Slack, 4<<30)
	l.Path = cmp.Or(l.Path, 4095)
	l.Depth = cmp.Or(l.Depth, 1000)
	return l
}

// meter holds what is read against the limits.
type meter struct {
	lim     Limits
	in, out int64 // compressed and uncompressed bytes so far
}

// compressed counts bytes of blobs.
func (m *meter) compressed(n int64) error {
	m.in += n
	if m.in > m.lim.Bytes {
		return refuse(ErrTooLarge, "", "the layers are larger than the %s that are taken", text.Size(m.lim.Bytes))
	}
	return nil
}

// uncompressed counts what blobs hold, and the holes of sparse files.
func (m *meter) uncompressed(n int64) error {
	if n > m.lim.Bytes-m.out {
		return refuse(ErrTooLarge, "", "the layers hold more than the %s that are taken", text.Size(m.lim.Bytes))
	}
	m.out += n
	if m.out > m.lim.Slack && (m.out-m.lim.Slack)/m.lim.Ratio > m.in {
		return refuse(ErrTooLarge, "", "%s of layers hold %s and more, which is no image but a bomb; "+
			"beyond %s, at most %d bytes for each one that is stored are taken", text.Size(m.in), text.Size(m.out),
			text.Size(m.lim.Slack), m.lim.Ratio)
	}
	return nil
}
