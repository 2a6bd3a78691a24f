package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"
)

// notWritten stands for the reference to an inode that has none yet.
const notWritten = math.MaxUint64

// tree writes the inodes of a tree, and collects its listings, extended attributes and owners.
type tree struct {
	*census
	inodes  *metaWriter
	dirs    *metaWriter
	listed  bytes.Buffer // what dirs has written
	refs    []uint64     // to the inodes, by number - 1
	ids     idTable
	xattrs  *xattrTable
	clamped int
	scratch []byte
}

func newTree(c *census, inodes *metaWriter) *tree {
	t := &tree{census: c, inodes: inodes, refs: make([]uint64, len(c.links)), xattrs: newXattrTable(inodes.enc)}
	t.dirs = newMetaWriter(&t.listed, inodes.enc)
	for i := range t.refs {
		t.refs[i] = notWritten
	}
	return t
}

// write writes everything, the root last.
func (t *tree) write(root *Node) error {
	l, err := t.contents(root)
	if err != nil {
		return err
	}
	if err := t.inode(root, l, 0); err != nil {
		return err
	}
	if err := t.dirs.flush(); err != nil {
		return err
	}
	if t.inodes.n > math.MaxUint32 || t.dirs.n > math.MaxUint32 {
		return errors.New("squashfs: inodes or directories take more than 4 GiB")
	}
	return t.inodes.flush()
}

// contents writes what is in d: first what is in its directories, then the inodes of all its entries, one
// behind the other, then its listing.
func (t *tree) contents(d *Node) (*listing, error) {
	names := sortedNames(d)
	var below []*listing
	for _, name := range names {
		if child := d.Entries[name]; child.isDir() {
			l, err := t.contents(child)
			if err != nil {
				return nil, err
			}
			below = append(below, l)
		}
	}
	dirs := uint32(len(below))
	for _, name := range names {
		var l *listing
		child := d.Entries[name]
		if child.isDir() {
			l, below = below[0], below[1:]
		}
		if err := t.inode(child, l, t.numbers[d]); err != nil {
			return nil, err
		}
	}
	l, err := t.list(d, names)
	if err != nil {
		return nil, err
	}
	l.dirs = dirs
	return l, nil
}

// inode writes the inode of n, unless an earlier entry had it. l and parent are of a directory.
func (t *tree) inode(n *Node, l *listing, parent uint32) error {
	number := t.numbers[n]
	if t.refs[number-1] != notWritten {
		return nil
	}
	xattr, err := t.xattrs.index(n.Xattrs)
	if err != nil {
		return err
	}
	h := header{number: number, links: t.links[number-1], xattr: xattr, mtime: t.seconds(n.Mtime),
		mode: uint16(n.Mode & 0o7777)}
	if h.uid, err = t.ids.index(n.UID); err != nil {
		return err
	}
	if h.gid, err = t.ids.index(n.GID); err != nil {
		return err
	}
	switch n.Mode & TypeMask {
	case TypeDirectory:
		t.scratch = appendDirectory(t.scratch[:0], h, l, parent)
	case TypeRegular:
		t.scratch = appendRegular(t.scratch[:0], h, n.Content)
	case TypeSymlink:
		t.scratch = appendSymlink(t.scratch[:0], h, n.Target)
	}
	t.refs[number-1] = t.inodes.ref()
	return writeAll(t.inodes, t.scratch)
}

// seconds returns a time as inodes have it. One before 1970 or after 2106 becomes the nearest that there is; no time is
// 1970.
func (t *tree) seconds(at time.Time) uint32 {
	s := clamp(at)
	if int64(s) != at.Unix() && !at.IsZero() {
		t.clamped++
	}
	return s
}

func clamp(at time.Time) uint32 { return uint32(min(max(at.Unix(), 0), math.MaxUint32)) }

// idTable collects the numbers of users and groups; inodes have 16-bit indexes into it.
type idTable struct {
	indexes map[uint32]uint16
	ids     []uint32
}

func (t *idTable) index(id uint32) (uint16, error) {
	if i, ok := t.indexes[id]; ok {
		return i, nil
	}
	if len(t.ids) == math.MaxUint16 {
		return 0, fmt.Errorf("squashfs: more than %d users and groups %w", len(t.ids), ErrNode)
	}
	if t.indexes == nil {
		t.indexes = map[uint32]uint16{}
	}
	i := uint16(len(t.ids))
	t.indexes[id] = i
	t.ids = append(t.ids, id)
	return i, nil
}
