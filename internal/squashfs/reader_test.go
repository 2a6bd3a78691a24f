package squashfs

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// reader reads a whole image into memory, by doc.go, and is stricter than drivers are. A fault of the image is a panic
// with an error, which parse returns.
type reader struct {
	image                                                           []byte
	compression                                                     uint16
	inodeTable, directoryTable, fragmentTable, exportTable, idTable uint64
	xattrTable, end                                                 uint64
	inodes, dirs                                                    stream
	ids, fragments, export                                          []byte
	xattrs                                                          []map[string][]byte
	files                                                           map[uint32]*file // by number
	links, claimed                                                  map[uint32]uint32
}

// stream is a stream of records and where its metadata blocks begin, by place in the image counted from the first.
type stream struct {
	b      []byte
	blocks map[uint64]int
}

func (r *reader) want(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Errorf(format, args...))
	}
}

// parse returns the tree that an image holds.
func parse(image []byte) (root *file, err error) {
	defer func() {
		if p := recover(); p != nil {
			if err, _ = p.(error); err == nil {
				err = fmt.Errorf("%v", p)
			}
		}
	}()
	r := &reader{image: image, files: map[uint32]*file{}, links: map[uint32]uint32{}, claimed: map[uint32]uint32{}}
	n, fragments, ids := r.superblock()
	r.tables(n, fragments, ids)
	root = r.inode(le.Uint64(image[32:]), 0)
	r.want(len(r.files) == int(n), "%d inodes, %d are reachable", n, len(r.files))
	for number, f := range r.files {
		links, claimed := r.links[number], r.claimed[number]
		r.want(f.isDir() || links == claimed, "inode %d has %d links, says %d", number, links, claimed)
		r.want(number >= 1 && number <= n, "inode number %d", number)
	}
	return root, nil
}

func (r *reader) superblock() (inodes, fragments uint32, ids uint16) {
	b := r.image[:SuperblockSize]
	r.want(string(b[:4]) == "hsqs" && le.Uint32(b[12:]) == blockSize, "head % x", b)
	r.want(le.Uint16(b[22:]) == 17 && le.Uint32(b[28:]) == 4, "head % x", b)
	r.compression = le.Uint16(b[20:])
	for i, p := range []*uint64{&r.end, &r.idTable, &r.xattrTable, &r.inodeTable, &r.directoryTable, &r.fragmentTable,
		&r.exportTable} {
		*p = le.Uint64(b[40+8*i:])
	}
	size := uint64(len(r.image))
	r.want(size%4096 == 0 && size-r.end < 4096, "end %d of %d", r.end, size)
	r.want(bytes.Count(r.image[r.end:], []byte{0}) == int(size-r.end), "behind the end")
	r.want((le.Uint16(b[24:])&flagNoXattrs != 0) == (r.xattrTable == absent), "flags %#x", b[24])
	return le.Uint32(b[4:]), le.Uint32(b[16:]), le.Uint16(b[26:])
}

// tables reads all tables, each of which must end where the next begins.
func (r *reader) tables(inodes, fragments uint32, ids uint16) {
	r.inodes = r.stream(r.inodeTable, r.directoryTable)
	var next uint64
	r.fragments, next = r.table(r.fragmentTable, 16*int(fragments), 0)
	r.dirs = r.stream(r.directoryTable, next)
	at := r.fragmentTable + 8*blocks(16*int(fragments))
	r.export, next = r.table(r.exportTable, 8*int(inodes), 0)
	r.want(next == at, "the export table begins at %d, want %d", next, at)
	at = r.exportTable + 8*blocks(8*int(inodes))
	r.ids, next = r.table(r.idTable, 4*int(ids), 0)
	r.want(next == at, "the id table begins at %d, want %d", next, at)
	at = r.idTable + 8*blocks(4*int(ids))
	if r.xattrTable != absent {
		at = r.xattrSets(at)
	}
	r.want(at == r.end, "the last table ends at %d, the image at %d", at, r.end)
}

func blocks(size int) uint64 { return uint64((size + metaSize - 1) / metaSize) }

// stream reads the metadata blocks between two places.
func (r *reader) stream(from, to uint64) stream {
	s := stream{blocks: map[uint64]int{}}
	for at := from; at < to; {
		r.want(len(s.b)%metaSize == 0, "a short metadata block before %d", at)
		s.blocks[at-from] = len(s.b)
		head := le.Uint16(r.image[at:])
		size := uint64(head &^ (1 << 15))
		b := r.image[at+2:][:size]
		if head>>15 == 0 {
			b = r.unpack(b)
			r.want(int(size) < len(b), "a metadata block grew")
		}
		r.want(len(b) <= metaSize, "a metadata block of %d", len(b))
		s.b = append(s.b, b...)
		at += 2 + size
		r.want(at <= to, "a metadata block goes beyond %d", to)
	}
	return s
}

// at returns what a reference refers to.
func (r *reader) at(s stream, ref uint64) []byte {
	block, ok := s.blocks[ref>>16]
	r.want(ok && ref&0xffff < metaSize, "reference %#x", ref)
	return s.b[block+int(ref&0xffff):]
}

// table returns a table and where its first block is. head is the size of what lies between the blocks and their list.
func (r *reader) table(list uint64, size int, head uint64) (table []byte, first uint64) {
	n := blocks(size)
	first = list
	for i := range n {
		at := le.Uint64(r.image[list+8*i:])
		if i == 0 {
			first = at
		}
		block := r.stream(at, at+2+uint64(le.Uint16(r.image[at:])&^(1<<15)))
		table = append(table, block.b...)
	}
	r.want(len(table) == size, "a table of %d bytes, want %d", len(table), size)
	r.want(len(r.stream(first, list-head).b) == size, "a gap in a table")
	return table, first
}

// xattrSets reads the xattr table, which must begin at a place, and returns its end.
func (r *reader) xattrSets(begin uint64) uint64 {
	kv, n := le.Uint64(r.image[r.xattrTable:]), int(le.Uint32(r.image[r.xattrTable+8:]))
	r.want(kv == begin, "extended attributes begin at %d, want %d", kv, begin)
	records, first := r.table(r.xattrTable+16, 16*n, 16)
	sets := r.stream(kv, first)
	for ; len(records) > 0; records = records[16:] {
		b := r.at(sets, le.Uint64(records))[:le.Uint32(records[12:])]
		set := map[string][]byte{}
		for range le.Uint32(records[8:]) {
			name := xattrPrefixes[le.Uint16(b)] + string(b[4:][:le.Uint16(b[2:])])
			b = b[4+le.Uint16(b[2:]):]
			set[name] = b[4:][:le.Uint32(b)]
			b = b[4+le.Uint32(b):]
		}
		r.want(len(b) == 0 && len(set) > 0, "a set of extended attributes has %d bytes too many", len(b))
		r.xattrs = append(r.xattrs, set)
	}
	return r.xattrTable + 16 + 8*blocks(16*n)
}

func (r *reader) unpack(b []byte) []byte {
	if r.compression == 6 {
		d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(blockSize), zstd.WithDecoderConcurrency(1))
		if err != nil {
			panic(err)
		}
		defer d.Close()
		out, err := d.DecodeAll(b, nil)
		r.want(err == nil, "zstd: %w", err)
		return out
	}
	z, err := zlib.NewReader(bytes.NewReader(b))
	r.want(err == nil, "zlib: %w", err)
	out, err := io.ReadAll(z)
	r.want(err == nil, "zlib: %w", err)
	return out
}

// inode reads an inode, and what is in it.
func (r *reader) inode(ref uint64, parent uint32) *file {
	b := r.at(r.inodes, ref)
	typ, number := le.Uint16(b), le.Uint32(b[12:])
	r.want(le.Uint64(r.export[8*(number-1):]) == ref, "inode %d is not where the export table has it", number)
	r.links[number]++
	if f := r.files[number]; f != nil {
		r.want(!f.isDir(), "a directory in two places")
		return f
	}
	f := &file{}
	r.files[number] = f
	f.Mode = uint32(le.Uint16(b[2:]))
	f.UID, f.GID = le.Uint32(r.ids[4*int(le.Uint16(b[4:])):]), le.Uint32(r.ids[4*int(le.Uint16(b[6:])):])
	f.Mtime = time.Unix(int64(le.Uint32(b[8:])), 0)
	switch typ {
	case 1, 8:
		f.Mode |= TypeDirectory
		r.directory(f, b, typ == 8, number, parent)
	case 2, 9:
		f.Mode |= TypeRegular
		r.regular(f, b, typ == 9, number)
	case 3, 10:
		f.Mode |= TypeSymlink
		n := le.Uint32(b[20:])
		f.Target = string(b[24:][:n])
		r.claimed[number] = le.Uint32(b[16:])
		if typ == 10 {
			f.Xattrs = r.xattrs[le.Uint32(b[24+n:])]
		}
	default:
		panic(fmt.Errorf("an inode of type %d", typ))
	}
	return f
}

// regular reads the content of a file.
func (r *reader) regular(f *file, b []byte, extended bool, number uint32) {
	start, size := uint64(le.Uint32(b[16:])), uint64(le.Uint32(b[28:]))
	fragment, offset, list := le.Uint32(b[20:]), le.Uint32(b[24:]), b[32:]
	r.claimed[number] = 1
	sparse := uint64(0)
	if extended {
		start, size, sparse = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
		fragment, offset, list = le.Uint32(b[44:]), le.Uint32(b[48:]), b[56:]
		r.claimed[number] = le.Uint32(b[40:])
		f.Xattrs = r.xattr(b[52:])
	}
	for range size / blockSize {
		var data []byte
		if data, start = r.block(start, le.Uint32(list)); data == nil {
			data = make([]byte, blockSize)
			sparse -= blockSize
		}
		r.want(len(data) == blockSize, "a block of %d bytes", len(data))
		f.data = append(f.data, data...)
		list = list[4:]
	}
	r.want(sparse == 0, "%d bytes are said to be zeros too many", sparse)
	r.want((fragment != noFragment) == (size%blockSize > 0), "fragment %d of %d bytes", fragment, size)
	if fragment != noFragment {
		data, _ := r.block(le.Uint64(r.fragments[16*fragment:]), le.Uint32(r.fragments[16*fragment+8:]))
		f.data = append(f.data, data[offset:][:size%blockSize]...)
	}
}

// block reads a block of data and returns where it ends.
func (r *reader) block(start uint64, size uint32) ([]byte, uint64) {
	if size == 0 {
		return nil, start
	}
	end := start + uint64(size&^storedRaw)
	r.want(start >= SuperblockSize && end <= r.inodeTable, "a block at %d", start)
	if size&storedRaw != 0 {
		return r.image[start:end], end
	}
	return r.unpack(r.image[start:end]), end
}

func (r *reader) xattr(b []byte) map[string][]byte {
	if i := le.Uint32(b); i != noXattr {
		return r.xattrs[i]
	}
	return nil
}

// directory reads a listing, and what it lists.
func (r *reader) directory(f *file, b []byte, extended bool, number, parent uint32) {
	block, links, size := le.Uint32(b[16:]), le.Uint32(b[20:]), uint32(le.Uint16(b[24:]))
	offset, above, indexes := le.Uint16(b[26:]), le.Uint32(b[28:]), uint16(0)
	if extended {
		links, size, block, above = le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint32(b[28:])
		indexes, offset = le.Uint16(b[32:]), le.Uint16(b[34:])
		f.Xattrs = r.xattr(b[36:])
	}
	r.want(above == parent, "inode %d is below %d, says %d", number, parent, above)
	f.in = map[string]*file{}
	dirs := uint32(0)
	if size -= 3; size > 0 {
		all := r.at(r.dirs, uint64(block)<<16|uint64(offset))[:size]
		starts := map[uint32]string{}
		dirs = r.entries(f, all, number, starts)
		if extended {
			r.index(b[40:], indexes, all, offset, starts)
		}
	}
	r.want(links == 2+dirs, "a directory with %d directories has %d links", dirs, links)
}

// index checks that the index of a directory leads to runs of its listing, and has one entry for about each metadata
// block.
func (r *reader) index(b []byte, count uint16, listing []byte, offset uint16, starts map[uint32]string) {
	for range count {
		at, block, name := le.Uint32(b), le.Uint32(b[4:]), string(b[12:][:le.Uint32(b[8:])+1])
		r.want(starts[at] == name, "the index has %q at %d", name, at)
		run := r.at(r.dirs, uint64(block)<<16|(uint64(at)+uint64(offset))%metaSize)
		r.want(&run[0] == &listing[at], "the index has the wrong block for %q", name)
		b = b[12+len(name):]
	}
	want := (int(offset) + len(listing) - 1) / metaSize
	r.want(int(count) == want || int(count) == want-1, "%d entries in the index of %d blocks", count, want+1)
}

// entries reads the runs of a listing, and notes where they begin.
func (r *reader) entries(f *file, b []byte, number uint32, starts map[uint32]string) (dirs uint32) {
	size, last := len(b), ""
	for len(b) > 0 {
		at := uint32(size - len(b))
		count, block, base := le.Uint32(b)+1, le.Uint32(b[4:]), le.Uint32(b[8:])
		r.want(count <= 256, "a run of %d", count)
		b = b[12:]
		for i := range count {
			name := string(b[8:][:int(le.Uint16(b[6:]))+1])
			r.want(name > last && checkName(name) == nil, "%q comes after %q", name, last)
			if last = name; i == 0 {
				starts[at] = name
			}
			ref := uint64(block)<<16 | uint64(le.Uint16(b))
			inode := r.at(r.inodes, ref)
			r.want(le.Uint32(inode[12:]) == base+uint32(int32(int16(le.Uint16(b[2:])))), "the number of %q", name)
			r.want(slices.Contains([]uint16{le.Uint16(b[4:]), le.Uint16(b[4:]) + 7}, le.Uint16(inode)), "the type of %q", name)
			f.in[name] = r.inode(ref, number)
			if f.in[name].isDir() {
				dirs++
			}
			b = b[8+len(name):]
		}
	}
	return dirs
}

// alike reports where two trees are different.
func alike(want, got *file, path string, seen map[*file]*file) error {
	if g, ok := seen[want]; ok {
		if g != got {
			return fmt.Errorf("%q is no hard link", path)
		}
		return nil
	}
	seen[want] = got
	mtime := clamp(want.Mtime)
	switch {
	case want.Mode != got.Mode, want.UID != got.UID, want.GID != got.GID, got.Mtime.Unix() != int64(mtime),
		want.Target != got.Target:
		return fmt.Errorf("%q: %+v, want %+v", path, got.Node, want.Node)
	case !bytes.Equal(want.data, got.data):
		return fmt.Errorf("%q has other content", path)
	case len(want.Xattrs) != len(got.Xattrs) || len(want.in) != len(got.in):
		return fmt.Errorf("%q: %d attributes, %d entries", path, len(got.Xattrs), len(got.in))
	}
	for name, value := range want.Xattrs {
		if v, ok := got.Xattrs[name]; !ok || !bytes.Equal(v, value) {
			return fmt.Errorf("%q: %s", path, name)
		}
	}
	var errs []error
	for name, f := range want.in {
		if got.in[name] == nil {
			return fmt.Errorf("%q/%q is not there", path, name)
		}
		errs = append(errs, alike(f, got.in[name], path+"/"+name, seen))
	}
	return errors.Join(errs...)
}
