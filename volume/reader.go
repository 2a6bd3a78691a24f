package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/fsx"
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

// OpenOptions bound what opening costs. The zero value is for volumes of which nothing is known.
type OpenOptions struct {
	// MaxIndex is how many bytes an index may have, as it lies in the file and inflated: DefaultMaxIndex if it is 0,
	// and then no more than a few hundred times what it takes in the file. A larger index is ErrLimit.
	MaxIndex int64
	// Digest, if it is not zero, is the volume's, from a source that is trusted: it is compared before anything is
	// inflated, and ErrDigest if it is another.
	Digest Digest
}

// Bounds of an index that is opened. In memory a name takes 44 bytes and its own length, which is about twice what it
// takes in an inflated index, or six times with the shortest names.
const (
	DefaultMaxIndex = 256 << 20
	AnyIndex        = maxInflated // all that the format permits

	// indexRatio is beyond what honest trees reach: a million links to one place are packed to 1/135.
	indexRatio = 200
	indexSlack = 1 << 20
)

// checkPacked refuses an index that is too large to be read.
func (o OpenOptions) checkPacked(h indexHeader) error {
	return atMost(h.packed, cmp.Or(o.MaxIndex, DefaultMaxIndex))
}

// checkInflated refuses one that has been authenticated, and is too large to be inflated.
func (o OpenOptions) checkInflated(h indexHeader) error {
	if o.MaxIndex > 0 {
		return atMost(h.inflated, o.MaxIndex)
	}
	return atMost(h.inflated, min(DefaultMaxIndex, indexSlack+indexRatio*int64(h.packed)))
}

// checkDigest refuses another volume than the expected one.
func (o OpenOptions) checkDigest(d Digest) error {
	if o.Digest != (Digest{}) && d != o.Digest {
		return fmt.Errorf("%w: it is %s", ErrDigest, d)
	}
	return nil
}

func atMost(size uint64, most int64) error {
	if size > uint64(most) {
		return fmt.Errorf("%w: %d bytes, it may have %d", ErrLimit, size, most)
	}
	return nil
}

// Open opens a sealed volume of the given size. The work is in proportion to
// the index, whatever the volume's size. The key is not kept; what is derived
// from it is.
//
// Open proves that the index was made with the key, not that it is the wanted
// version: compare Digest with a signed one.
func Open(r io.ReaderAt, size int64, key Key) (*Reader, error) {
	return OpenOptions{}.Open(r, size, key)
}

// Open is the function Open with options.
func (o OpenOptions) Open(r io.ReaderAt, size int64, key Key) (*Reader, error) {
	x, err := o.openIndex(r, size, key)
	if err != nil {
		return nil, err
	}
	t, err := inflate(x.packed, x.head, nil)
	if err != nil {
		return nil, err
	}
	v := &Reader{r: r, size: size, head: x.head, digest: x.digest, codec: x.codec, t: t}
	v.ids.New = func() any { return v.codec.newIDMaker() }
	return v, nil
}

// CheckKey returns the id and the digest of a sealed volume if key opens its index, which is not inflated and so
// takes no more memory than it has in the file.
func (o OpenOptions) CheckKey(r io.ReaderAt, size int64, key Key) (ID, Digest, error) {
	x, err := o.openIndex(r, size, key)
	if err != nil {
		return ID{}, Digest{}, err
	}
	return x.head.id, x.digest, nil
}

// openedIndex is an index that the key opens.
type openedIndex struct {
	head   indexHeader
	packed []byte
	digest Digest
	codec  *codec
}

func (o OpenOptions) openIndex(r io.ReaderAt, size int64, key Key) (x openedIndex, err error) {
	if x.codec, err = newCodec(key); err != nil {
		return x, err
	}
	f, err := readFooter(r, size)
	if err != nil {
		return x, err
	}
	var head []byte
	if x.head, head, err = readIndexHeader(r, f); err != nil {
		return x, err
	}
	if err := o.checkPacked(x.head); err != nil {
		return x, err
	}
	sealed := make([]byte, f.length-indexHeaderSize)
	if err := readFullAt(r, sealed, f.offset+indexHeaderSize); err != nil {
		return x, fmt.Errorf("read the index: %w", err)
	}
	d := newDigest(x.head.id)
	d.Write(head)
	d.Write(sealed)
	x.digest = Digest(d.Sum(nil))
	if err := o.checkDigest(x.digest); err != nil {
		return x, err
	}
	if x.packed, err = x.codec.index.Open(sealed[:0], x.head.nonce[:], sealed, head); err != nil {
		return x, ErrIndex
	}
	return x, o.checkInflated(x.head)
}

// OpenFile opens the sealed volume at path; Close it after use.
func OpenFile(path string, key Key) (*Reader, error) { return OpenOptions{}.OpenFile(path, key) }

// OpenFile is the function OpenFile with options.
func (o OpenOptions) OpenFile(path string, key Key) (*Reader, error) {
	f, err := fsx.OpenRegular(path)
	if errors.Is(err, fsx.ErrNotRegular) {
		return nil, fmt.Errorf("%w: %w", ErrFooter, fsx.ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	v, err := o.openFile(f, key)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	v.closer = f
	return v, nil
}

func (o OpenOptions) openFile(f *os.File, key Key) (*Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return o.Open(f, fi.Size(), key)
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
	a := Attr{Type: n.typ, Mode: uint32(n.mode), Mtime: time.Unix(n.sec, int64(n.nsec)), Nlink: r.t.nlink(node)}
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
