package volume

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// segBlocks blocks of a file, 1 MiB of plaintext, have one digest in the index
// of a cipher directory. The first segment has the file's header as well.
const segBlocks = 256

// maxExtra is how much ciphertext can follow a file's last whole block or stand
// in place of one: a bare header, a torn block.
const maxExtra = headerSize + cipherBlock - 1

// DirIndexOptions says how to index a cipher directory. The zero value will do.
type DirIndexOptions struct {
	// More, if set, is asked before each MiB of content that would be read. From
	// its first false on, files are indexed by id and size only.
	More func() bool
	// Damaged, if set, is told of what cannot be indexed, or not as a whole, and
	// indexing goes on. Without it the first such thing ends it.
	Damaged func(path string, err error)
}

// DirIndex describes an index that was written.
type DirIndex struct {
	Digest  Digest // over the format version, the volume id and the sealed index
	Size    int64  // of the sealed index, bytes
	Entries int    // names, the root not counted
	Files   int
	// Unread are those of the files whose content has no digest.
	Unread int
}

// WriteIndex writes the sealed index of a cipher directory in which nobody
// writes any more. Nothing is copied; each file is read once. id is the volume's,
// as its keys.age has it. Whoever signs the digest vouches for the tree.
func (c *CipherDir) WriteIndex(ctx context.Context, w io.Writer, id ID, opt DirIndexOptions) (DirIndex, error) {
	return c.writeIndex(ctx, w, id, rand.Reader, opt)
}

func (c *CipherDir) writeIndex(ctx context.Context, w io.Writer, id ID, random io.Reader, opt DirIndexOptions) (DirIndex, error) {
	index, err := newIndexWriter()
	if err != nil {
		return DirIndex{}, err
	}
	x := &dirIndexer{ctx: ctx, index: index, more: opt.More, damaged: opt.Damaged}
	tolerant := *c
	tolerant.damaged, tolerant.tails = opt.Damaged, opt.Damaged != nil
	if err := tolerant.walk(ctx, x.entry); err != nil {
		return DirIndex{}, err
	}
	packed, err := index.finish()
	if err != nil {
		return DirIndex{}, err
	}
	h := indexHeader{magic: dirMagic, id: id, entries: index.entries, inflated: index.inflated, packed: uint64(len(packed))}
	if _, err := io.ReadFull(random, h.nonce[:]); err != nil {
		return DirIndex{}, fmt.Errorf("draw a nonce: %w", err)
	}
	head := h.encode()
	body := c.codec.dir.Seal(packed[:0], h.nonce[:], packed, head)
	digest := newDigest(id)
	for _, part := range [][]byte{head, body} {
		digest.Write(part)
		if _, err := w.Write(part); err != nil {
			return DirIndex{}, fmt.Errorf("write the index: %w", err)
		}
	}
	x.out.Digest, x.out.Size, x.out.Entries = Digest(digest.Sum(nil)), int64(len(head)+len(body)), int(index.entries)
	return x.out, nil
}

// dirIndexer is one WriteIndex under way.
type dirIndexer struct {
	ctx   context.Context
	index *indexWriter
	more  func() bool
	// damaged is told of files that cannot be read.
	damaged func(path string, err error)
	over    bool // more has said no
	out     DirIndex
	buf     []byte
}

func (x *dirIndexer) entry(e Entry, at cipherPlace) (uint32, error) {
	if e.IsLink || e.Attr.Type == Symlink {
		return x.index.record(e, func() {})
	}
	if e.Attr.Type == Dir {
		var mark [dirIVSize]byte
		copy(mark[:], at.iv)
		return x.index.record(e, func() { x.index.rec = append(x.index.rec, mark[:]...) })
	}
	x.out.Files++
	id, digests, err := x.content(e, at)
	if err != nil && x.damaged != nil && x.ctx.Err() == nil {
		x.damaged(at.path, err)
		x.out.Unread++
		digests, err = nil, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%q: %w", e.Name, err)
	}
	return x.index.record(e, func() {
		x.index.number(uint64(at.size - cipherSize(e.Attr.Size)))
		if e.Attr.Size > 0 {
			x.index.rec = append(x.index.rec, id[:]...)
			x.index.number(uint64(len(digests)))
			for _, d := range digests {
				x.index.rec = append(x.index.rec, d[:]...)
			}
		}
	})
}

// content reads a file's header, and its segments if there is time for all.
func (x *dirIndexer) content(e Entry, at cipherPlace) (id fileID, digests []Digest, err error) {
	if e.Attr.Size == 0 {
		return id, nil, nil
	}
	var head [headerSize]byte
	if err := readFullAt(at.file, head[:], 0); err != nil {
		return id, nil, err
	}
	if id, err = parseFileHeader(head[:]); err != nil {
		// It cannot be opened, and reading it will say so.
		id = fileID{}
	}
	if x.buf == nil {
		x.buf = make([]byte, headerSize+segBlocks*cipherBlock)
	}
	for seg := range segments(e.Attr.Size) {
		if x.ctx.Err() != nil {
			return id, nil, context.Cause(x.ctx)
		}
		if x.over = x.over || (x.more != nil && !x.more()); x.over {
			x.out.Unread++
			return id, nil, nil
		}
		from, to := segment(e.Attr.Size, seg)
		b := x.buf[:to-from]
		if err := readFullAt(at.file, b, from); err != nil {
			if errors.Is(err, ErrSize) {
				err = ErrChanged
			}
			return id, nil, err
		}
		digests = append(digests, sha256.Sum256(b))
	}
	return id, digests, nil
}

// segments returns the number of segments of a file with size bytes of plaintext.
func segments(size int64) int64 {
	const plain = segBlocks * plainBlock
	return (size + plain - 1) / plain
}

// segment returns where a file's segment lies in its ciphertext.
func segment(size, seg int64) (from, to int64) {
	from, to = headerSize+seg*segBlocks*cipherBlock, headerSize+(seg+1)*segBlocks*cipherBlock
	if seg == 0 {
		from = 0
	}
	return from, min(to, cipherSize(size))
}

// dirPlaces is what the index of a cipher directory holds beside the tree.
type dirPlaces struct {
	marks   [][16]byte       // by node: a directory's diriv, a file's id
	extra   map[uint32]int64 // by node: bytes on disk beyond those of its blocks
	digests []Digest         // node.at is a file's first, or negative
}

// place reads where a node's content is in a cipher directory.
func (p *indexParser) place(n *node) error {
	d := p.places
	if d == nil {
		return nil
	}
	number := uint32(len(d.marks))
	d.marks = append(d.marks, [16]byte{})
	switch n.typ {
	case Dir:
		_, err := io.ReadFull(p.r, d.marks[number][:])
		return err
	case Symlink:
		return nil
	}
	n.at = -1
	extra, err := p.number(maxExtra)
	if err != nil {
		return err
	}
	if extra > 0 {
		d.extra[number] = int64(extra)
	}
	if n.size == 0 {
		return nil
	}
	if _, err := io.ReadFull(p.r, d.marks[number][:]); err != nil {
		return err
	}
	return p.digests(n)
}

// digests reads those of a file: all of its segments' or none.
func (p *indexParser) digests(n *node) error {
	all := uint64(segments(n.size))
	count, err := p.number(all)
	switch {
	case err != nil || count == 0:
		return err
	case count != all:
		return errors.New("a file has digests of some segments only")
	}
	n.at = int64(len(p.places.digests))
	for range count {
		var one Digest
		if _, err := io.ReadFull(p.r, one[:]); err != nil {
			return err
		}
		p.places.digests = append(p.places.digests, one)
	}
	return nil
}
