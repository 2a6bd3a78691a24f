package squashfs

import (
	"errors"
	"math"
)

const (
	runHead    = 12  // bytes of the head of a run of entries
	entryHead  = 8   // bytes of an entry before its name
	maxEntries = 256 // in a run
)

// listing is where the entries of a directory are, as its inode says.
type listing struct {
	block   uint32 // of the directory table
	offset  uint16 // in the block
	size    uint32
	dirs    uint32 // how many of the entries are directories
	index   []byte // of names, for directories that take more than one block
	indexes uint16 // entries in the index
}

// run is a part of a listing: entries whose inodes begin in one metadata block.
type run struct {
	block uint32 // of the inode table
	base  uint32 // number of an inode; entries have the difference to it
	count uint32
	first string
	body  []byte
}

// list writes the entries of d, whose inodes are written.
func (t *tree) list(d *Node, names []string) (*listing, error) {
	ref := t.dirs.ref()
	l := &listing{block: uint32(ref >> 16), offset: uint16(ref)}
	var r run
	at := l.block // the block in which the run before began
	end := func() error {
		if begin := uint32(t.dirs.n); begin != at && l.indexes < math.MaxUint16 {
			at = begin
			l.addIndex(begin, r.first)
		}
		return t.endRun(l, &r)
	}
	for _, name := range names {
		n := d.Entries[name]
		number := t.numbers[n]
		ref := t.refs[number-1]
		if r.count > 0 && !t.fits(&r, name, number, uint32(ref>>16)) {
			if err := end(); err != nil {
				return nil, err
			}
		}
		if r.count == 0 {
			r.block, r.base, r.first = uint32(ref>>16), number, name
		}
		r.add(name, number, uint16(ref), n.Mode)
	}
	if r.count == 0 {
		return l, nil
	}
	return l, end()
}

// fits reports whether an entry can join a run. A run ends where its metadata block does, so that the next one can be
// found by the index.
func (t *tree) fits(r *run, name string, number, block uint32) bool {
	distance := int64(number) - int64(r.base)
	return r.count < maxEntries && block == r.block && distance >= math.MinInt16 && distance <= math.MaxInt16 &&
		len(t.dirs.buf)+runHead+len(r.body)+entryHead+len(name) <= metaSize
}

// add appends an entry to a run.
func (r *run) add(name string, number uint32, offset uint16, mode uint32) {
	typ := uint16(inodeRegular)
	switch mode & TypeMask {
	case TypeDirectory:
		typ = inodeDirectory
	case TypeSymlink:
		typ = inodeSymlink
	}
	r.body = le.AppendUint16(r.body, offset)
	r.body = le.AppendUint16(r.body, uint16(int16(int64(number)-int64(r.base))))
	r.body = le.AppendUint16(r.body, typ)
	r.body = le.AppendUint16(r.body, uint16(len(name)-1))
	r.body = append(r.body, name...)
	r.count++
}

// endRun writes a run, and makes it an empty one.
func (t *tree) endRun(l *listing, r *run) error {
	if int64(l.size)+int64(runHead+len(r.body)) > math.MaxUint32-3 {
		return errors.New("squashfs: a directory of more than 4 GiB")
	}
	l.size += uint32(runHead + len(r.body))
	var head [runHead]byte
	le.PutUint32(head[0:], r.count-1)
	le.PutUint32(head[4:], r.block)
	le.PutUint32(head[8:], r.base)
	if err := writeAll(t.dirs, head[:]); err != nil {
		return err
	}
	err := writeAll(t.dirs, r.body)
	r.body, r.count = r.body[:0], 0
	return err
}

// addIndex notes that the run that comes next begins in another block, with a name.
func (l *listing) addIndex(block uint32, name string) {
	l.index = le.AppendUint32(l.index, l.size)
	l.index = le.AppendUint32(l.index, block)
	l.index = le.AppendUint32(l.index, uint32(len(name)-1))
	l.index = append(l.index, name...)
	l.indexes++
}
