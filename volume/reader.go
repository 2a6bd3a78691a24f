package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Reader reads a sealed volume, or a cipher directory that has a sealed index,
// at random. It trusts nothing but the index, and is safe for concurrent use.
type Reader struct {
	r      io.ReaderAt
	closer io.Closer
	size   int64
	head   indexHeader
	digest Digest
	codec  *codec
	t      *tree
	ids    sync.Pool   // *idMaker
	dir    *indexedDir // set if it is a cipher directory with an index
}

// readBuffer is what one ReadAt needs, reused.
type readBuffer struct {
	cipher [headerSize + readChunk*cipherBlock]byte
	plain  [plainBlock]byte
	aad    additional
}

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// readChunk is how many blocks are read at a time: what stays in a core's cache.
const readChunk = 64

// Open opens a sealed volume of the given size. The work is in proportion to
// the index, whatever the volume's size. The key is not kept; what is derived
// from it is.
//
// Open proves that the index was made with the key, not that it is the wanted
// version: compare Digest with a signed one.
func Open(r io.ReaderAt, size int64, key Key) (*Reader, error) {
	c, err := newCodec(key)
	if err != nil {
		return nil, err
	}
	f, err := readFooter(r, size)
	if err != nil {
		return nil, err
	}
	h, head, err := readIndexHeader(r, f)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, f.length-indexHeaderSize)
	if err := readFullAt(r, sealed, f.offset+indexHeaderSize); err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	d := newDigest(h.id)
	d.Write(head)
	d.Write(sealed)
	packed, err := c.index.Open(sealed[:0], h.nonce[:], sealed, head)
	if err != nil {
		return nil, ErrIndex
	}
	t, err := inflate(packed, h, nil)
	if err != nil {
		return nil, err
	}
	v := &Reader{r: r, size: size, head: h, digest: Digest(d.Sum(nil)), codec: c, t: t}
	v.ids.New = func() any { return c.newIDMaker() }
	return v, nil
}

// OpenFile opens the sealed volume at path; Close it after use.
func OpenFile(path string, key Key) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	v, err := openFile(f, key)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	v.closer = f
	return v, nil
}

func openFile(f *os.File, key Key) (*Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrFooter)
	}
	return Open(f, fi.Size(), key)
}

// Close closes what OpenFile or OpenIndexed opened.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// ID returns the volume's id.
func (r *Reader) ID() ID { return r.head.id }

// Digest returns the volume digest.
func (r *Reader) Digest() Digest { return r.digest }

// Size returns the length of the sealed file, or of an index, in bytes.
func (r *Reader) Size() int64 { return r.size }

// Entries returns the number of names in the tree, the root not counted.
func (r *Reader) Entries() int { return len(r.t.names) }

// Len returns the number of nodes. They are numbered from 0, the root; a file
// with several names is one node.
func (r *Reader) Len() int { return len(r.t.nodes) }

// Attr returns a node's attributes, zero ones if there is no such node.
func (r *Reader) Attr(node uint32) Attr {
	if int64(node) >= int64(len(r.t.nodes)) {
		return Attr{}
	}
	n := &r.t.nodes[node]
	a := Attr{Type: n.typ, Mode: uint32(n.mode), Mtime: time.Unix(n.sec, int64(n.nsec)), Nlink: n.nlink}
	if n.typ != Dir {
		a.Size = n.size
	}
	return a
}

// Readlink returns a symbolic link's target, "" for other nodes.
func (r *Reader) Readlink(node uint32) string {
	if int64(node) >= int64(len(r.t.nodes)) || r.t.nodes[node].typ != Symlink {
		return ""
	}
	return r.t.target(node)
}

// Dirent is one name in a directory.
type Dirent struct {
	Name string
	Node uint32
	Type Type
}

// Dirents returns a directory's names, sorted bytewise; none for other nodes.
func (r *Reader) Dirents(node uint32) []Dirent {
	kids := r.t.children(node)
	out := make([]Dirent, len(kids))
	for i, d := range kids {
		out[i] = Dirent{Name: r.t.name(d), Node: d.node, Type: r.t.nodes[d.node].typ}
	}
	return out
}

// Lookup finds a name in a directory.
func (r *Reader) Lookup(dir uint32, name string) (uint32, bool) { return r.t.lookup(dir, name) }

// ReadAt reads from a file by the rules of io.ReaderAt. Every byte it returns
// is authenticated; ErrBlock or ErrSize if one is not the sealed one. Errors
// name the node by number, not by its name.
func (r *Reader) ReadAt(node uint32, p []byte, off int64) (int, error) {
	if int64(node) >= int64(len(r.t.nodes)) || r.t.nodes[node].typ != File {
		return 0, fmt.Errorf("%w: node %d is no file", ErrPath, node)
	}
	n := &r.t.nodes[node]
	if off < 0 {
		return 0, fmt.Errorf("%w: negative offset", ErrPath)
	}
	if off >= n.size {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), n.size-off))
	if r.dir != nil {
		return r.dir.readAt(r, node, p, want, off)
	}
	b := readBuffers.Get().(*readBuffer)
	defer readBuffers.Put(b)
	ids := r.ids.Get().(*idMaker)
	id := ids.id(node)
	r.ids.Put(ids)
	done := 0
	for done < want {
		got, err := r.readBlocks(n, id, p[done:want], off+int64(done), b)
		done += got
		if err != nil {
			return done, fmt.Errorf("node %d: %w", node, err)
		}
	}
	if want < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readBlocks reads into p from off on, at most readChunk blocks.
func (r *Reader) readBlocks(n *node, id fileID, p []byte, off int64, b *readBuffer) (int, error) {
	first := off / plainBlock
	last := min((off+int64(len(p))-1)/plainBlock, first+readChunk-1)
	from := headerSize + first*cipherBlock
	if first == 0 {
		from = 0
	}
	to := min(headerSize+(last+1)*cipherBlock, cipherSize(n.size))
	raw := b.cipher[:to-from]
	if err := readFullAt(r.r, raw, n.at+from); err != nil {
		return 0, err
	}
	if first == 0 {
		if got, err := parseFileHeader(raw); err != nil || got != id {
			return 0, fmt.Errorf("%w: it is not the header of this file", ErrBlock)
		}
		raw = raw[headerSize:]
	}
	done, skip := 0, int(off%plainBlock)
	for block := first; len(raw) > 0 && done < len(p); block++ {
		c := raw[:min(cipherBlock, len(raw))]
		raw = raw[len(c):]
		got, err := r.readBlock(c, uint64(block), id, p[done:], skip, b)
		if err != nil {
			return done, err
		}
		done, skip = done+got, 0
	}
	return done, nil
}

// readBlock decrypts one block and copies it, from skip on, to p: directly if p
// has room for the whole block.
func (r *Reader) readBlock(c []byte, block uint64, id fileID, p []byte, skip int, b *readBuffer) (int, error) {
	dst, direct := b.plain[:], skip == 0 && len(p) >= len(c)-overhead
	if direct {
		dst = p
	}
	plain, err := r.codec.content.Open(dst[:0], c[:nonceSize], c[nonceSize:], b.aad.set(block, id))
	if err != nil {
		return 0, fmt.Errorf("%w: block %d", ErrBlock, block)
	}
	if direct {
		return len(plain), nil
	}
	got := copy(p, plain[skip:])
	clear(plain)
	return got, nil
}

// Walk implements Source, so that a volume can be extracted or sealed anew.
func (r *Reader) Walk(ctx context.Context, emit func(Entry) (uint32, error)) error {
	if _, err := emit(Entry{Attr: r.Attr(0)}); err != nil {
		return err
	}
	w := &readerWalk{r: r, ctx: ctx, emit: emit, linked: map[uint32]uint32{}}
	return w.dirs()
}

// readerWalk goes through the directories without recursion: an index may hold
// a tree of any depth.
type readerWalk struct {
	r      *Reader
	ctx    context.Context
	emit   func(Entry) (uint32, error)
	linked map[uint32]uint32 // numbers given to files with several names
}

func (w *readerWalk) dirs() error {
	type frame struct {
		kids []dirent
		self uint32
	}
	stack := []frame{{w.r.t.children(0), 0}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.kids) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		d := top.kids[0]
		top.kids = top.kids[1:]
		number, err := w.entry(d, top.self)
		if err != nil {
			return err
		}
		if kids := w.r.t.children(d.node); len(kids) > 0 {
			stack = append(stack, frame{kids, number})
		}
	}
	return nil
}

func (w *readerWalk) entry(d dirent, parent uint32) (uint32, error) {
	r := w.r
	e := Entry{Parent: parent, Name: r.t.name(d), Attr: r.Attr(d.node), Target: r.Readlink(d.node)}
	if e.Attr.Type != File {
		return w.emit(e)
	}
	e.Open = func() (io.ReadCloser, error) { return r.open(d.node), nil }
	if e.Attr.Nlink > 1 {
		e.Link, e.IsLink = w.linked[d.node]
	}
	number, err := w.emit(e)
	if e.Attr.Nlink > 1 {
		w.linked[d.node] = number
	}
	return number, err
}

// open returns a file's content as a stream.
func (r *Reader) open(node uint32) io.ReadCloser {
	return io.NopCloser(io.NewSectionReader(nodeReader{r, node}, 0, r.t.nodes[node].size))
}

// nodeReader is one file as an io.ReaderAt.
type nodeReader struct {
	r    *Reader
	node uint32
}

func (n nodeReader) ReadAt(p []byte, off int64) (int, error) { return n.r.ReadAt(n.node, p, off) }
