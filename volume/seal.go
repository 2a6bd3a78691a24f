package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"filippo.io/age"
)

// SealOptions says how to seal. Only Recipients is needed.
type SealOptions struct {
	// Recipients open the volume through its keys.age: at least one.
	Recipients []age.Recipient
	// Progress, if set, is called often, from one goroutine, with the number of
	// plaintext bytes written and their total (0 while it is not known).
	Progress func(plainBytesDone, plainBytesTotal int64)
	// Begun, if set, is called once, before anything is written, with the volume's id and with w if that
	// can be read (nil if not): what Written told of can be read there while the rest is made.
	Begun func(id ID, w io.ReaderAt)
	// Written, if set, is called often, from one goroutine, with the number of bytes written so far. Those
	// before final are not: SegmentSize, once there is an Entry with Late content, else 0.
	Written func(final, size int64)
	// Replace says that SealFile replaces a regular file.
	Replace bool
	// Confirm, if set, is asked by SealFile before the volume gets its name; its error ends sealing.
	Confirm func(Sealed) error
	// Workers is the number of encrypting goroutines; 0 means one a processor, at
	// most 8: more cannot help, as one goroutine computes the checksum.
	Workers int
}

// Sealed describes a volume that was sealed.
type Sealed struct {
	ID         ID
	Digest     Digest   // the volume digest, over the sealed index
	Size       int64    // of the sealed file, bytes
	Checksum   Digest   // SHA-256 over Segments
	Segments   []Digest // SHA-256 of each SegmentSize bytes of the sealed file
	Entries    int      // names, the root not counted
	PlainBytes int64    // sum of the file sizes, hard-linked files once
	Key        Key      // the master key; the caller wipes it
}

// Seal writes src to w as a sealed volume with a fresh id and key. It reads and
// writes in one pass. If it fails, what was written is worthless and must be
// discarded: a key seals once, a retry starts afresh. ErrChanged if the input
// changed meanwhile, ErrSpecial if it holds a socket, pipe or device, ErrNotSeekable if it has an Entry with
// Late content, which takes SealFile.
func Seal(ctx context.Context, w io.Writer, src Source, opt SealOptions) (Sealed, error) {
	return sealer{random: rand.Reader, wrap: wrapFresh}.seal(ctx, w, src, opt)
}

// sealer holds where randomness comes from, so that tests can fix it.
type sealer struct {
	random     io.Reader
	wrap       func(w io.Writer, id ID, key Key, rcpts ...age.Recipient) error
	rewritable rewritable // the output, where what comes first can be written last; else nil
}

// sealing is one seal under way.
type sealing struct {
	sealer
	out    Sealed
	codec  *codec
	ids    *idMaker
	pipe   *pipeline
	index  *indexWriter
	keys   []byte // content of keys.age
	dirs   map[uint32]cipherDir
	linked map[uint32]string // tar paths of files with further names
	mtime  time.Time
	open   *patch       // what is left open until all else is written; nil for nothing
	final  atomic.Int64 // where what is final begins, SegmentSize if something is left open
}

// cipherDir is where a directory lies in the cipher tree.
type cipherDir struct {
	path  string
	iv    []byte
	mtime time.Time
}

func (s sealer) seal(ctx context.Context, w io.Writer, src Source, opt SealOptions) (Sealed, error) {
	g := &sealing{sealer: s, dirs: map[uint32]cipherDir{}, linked: map[uint32]string{}}
	if err := g.prepare(opt.Recipients); err != nil {
		return Sealed{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := opt.Workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 8)
	}
	if opt.Begun != nil {
		r, _ := w.(io.ReaderAt)
		opt.Begun(g.out.ID, r)
	}
	g.pipe = newPipeline(ctx, w, g.codec, s.random, workers, g.written(opt.Written, progress(ctx, src, opt.Progress)))
	err := src.Walk(g.pipe.ctx, g.entry)
	if err == nil && g.index.nodes == 0 {
		err = fmt.Errorf("%w: the source gave no root directory", ErrPath)
	}
	if err == nil {
		err = g.finish()
	}
	if err = g.pipe.close(err); err == nil {
		g.out.Size, g.out.Segments = g.pipe.off, g.pipe.sums.finish()
		err = g.close(ctx)
	}
	if err != nil {
		g.out.Key.Wipe()
		return Sealed{}, err
	}
	g.out.Checksum = ChecksumOf(g.out.Segments)
	return g.out, nil
}

// written turns chunk sizes into a running total for report.
func (g *sealing) written(report func(final, size int64), plain func(int)) func(plain, sealed int) {
	var size int64
	return func(n, sealed int) {
		if size += int64(sealed); report != nil {
			report(g.final.Load(), size)
		}
		plain(n)
	}
}

// progress turns chunk sizes into running totals for report. The total is
// measured meanwhile.
func progress(ctx context.Context, src Source, report func(done, total int64)) func(int) {
	if report == nil {
		return func(int) {}
	}
	var total atomic.Int64
	if m, ok := src.(Measurer); ok {
		go func() {
			if u, err := m.Measure(ctx); err == nil {
				total.Store(u.PlainBytes)
			}
		}()
	}
	var done int64
	return func(n int) {
		done += int64(n)
		report(done, total.Load())
	}
}

// prepare makes id, key and keys.age, before anything is read or written.
func (g *sealing) prepare(rcpts []age.Recipient) (err error) {
	if _, err = io.ReadFull(g.random, g.out.ID[:]); err != nil {
		return fmt.Errorf("make a volume id: %w", err)
	}
	if g.out.Key, err = newKey(g.random); err != nil {
		return err
	}
	if g.codec, err = newCodec(g.out.Key); err != nil {
		return err
	}
	var keys bytes.Buffer
	if err = g.wrap(&keys, g.out.ID, g.out.Key, rcpts...); err != nil {
		return err
	}
	if keys.Len() > maxKeysAge {
		return fmt.Errorf("%w: too many recipients", ErrIdentity)
	}
	g.keys = keys.Bytes()
	g.ids = g.codec.newIDMaker()
	g.index, err = newIndexWriter()
	return err
}

// header writes one tar header. Times are whole seconds, so that most entries
// need no PAX record; the index has them in full.
func (g *sealing) header(h tar.Header) error {
	h.ModTime = h.ModTime.Truncate(time.Second)
	h.Format = tar.FormatPAX // USTAR where that can express it
	if err := tar.NewWriter(g.pipe).WriteHeader(&h); err != nil {
		return fmt.Errorf("write the sealed volume: %w", err)
	}
	return nil
}

// raw writes a small tar file as it is.
func (g *sealing) raw(name string, mode int64, mtime time.Time, content []byte) error {
	err := g.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: mtime})
	if err != nil {
		return err
	}
	if _, err := g.pipe.Write(content); err != nil {
		return err
	}
	return g.pad()
}

var zeros [tarTrailer]byte

// pad fills up the tar block.
func (g *sealing) pad() error {
	_, err := g.pipe.Write(zeros[:padded(g.pipe.off)-g.pipe.off])
	return err
}

// entry seals one entry and returns its node's number.
func (g *sealing) entry(e Entry) (uint32, error) {
	if g.index.nodes == 0 {
		return 0, g.root(e)
	}
	parent, ok := g.dirs[e.Parent]
	if !ok {
		return 0, fmt.Errorf("%w: %q comes before its directory", ErrPath, e.Name)
	}
	if err := checkName(e.Name); err != nil {
		return 0, err
	}
	name, long := g.codec.cipherName(e.Name, parent.iv)
	path := parent.path + "/" + name
	if long != "" {
		if err := g.raw(path+longSuffix, 0o400, parent.mtime, []byte(long)); err != nil {
			return 0, err
		}
	}
	h := tar.Header{Name: path, Mode: int64(e.Attr.Mode), ModTime: e.Attr.Mtime}
	switch {
	case e.IsLink:
		return g.link(e, h)
	case e.Attr.Type == Dir:
		return g.dir(e, h)
	case e.Attr.Type == File:
		return g.file(e, h)
	case e.Attr.Type == Symlink:
		return g.symlink(e, h)
	}
	return 0, fmt.Errorf("%w: %q", ErrSpecial, e.Name)
}

func (g *sealing) root(e Entry) error {
	if e.Attr.Type != Dir {
		return fmt.Errorf("%w: the root is no directory", ErrPath)
	}
	g.mtime = plainTime(e.Attr.Mtime)
	if err := g.raw(keysName, 0o600, g.mtime, g.keys); err != nil {
		return err
	}
	_, err := g.dir(e, tar.Header{Name: treeName, Mode: int64(e.Attr.Mode), ModTime: e.Attr.Mtime})
	return err
}

// plainTime returns the nearest time that a plain tar header can hold: a PAX record
// would move what has a fixed place in the volume.
func plainTime(t time.Time) time.Time {
	const latest = 1<<33 - 1 // eleven octal digits
	return time.Unix(min(max(t.Unix(), 0), latest), 0)
}

func (g *sealing) dir(e Entry, h tar.Header) (uint32, error) {
	d := cipherDir{path: h.Name, iv: make([]byte, dirIVSize), mtime: h.ModTime}
	if _, err := io.ReadFull(g.random, d.iv); err != nil {
		return 0, fmt.Errorf("draw a directory's nonce: %w", err)
	}
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if err := g.header(h); err != nil {
		return 0, err
	}
	if err := g.raw(d.path+"/"+dirIVName, 0o440, d.mtime, d.iv); err != nil {
		return 0, err
	}
	node, err := g.index.add(e, 0)
	g.dirs[node] = d
	return node, err
}

func (g *sealing) file(e Entry, h tar.Header) (uint32, error) {
	if e.Late != nil {
		return g.late(e, h)
	}
	if e.Attr.Size < 0 || e.Attr.Size > maxFileSize {
		return 0, fmt.Errorf("%w: a file of %d bytes", ErrPath, e.Attr.Size)
	}
	h.Typeflag, h.Size = tar.TypeReg, cipherSize(e.Attr.Size)
	if err := g.header(h); err != nil {
		return 0, err
	}
	node, err := g.enter(e, h.Name, g.pipe.off)
	if err != nil {
		return 0, err
	}
	if err := g.content(e, g.ids.id(node)); err != nil {
		return 0, err
	}
	return node, g.pad()
}

// enter puts a file, whose ciphertext begins at start, into the index.
func (g *sealing) enter(e Entry, path string, start int64) (uint32, error) {
	node, err := g.index.add(e, start)
	if err == nil && e.Attr.Nlink > 1 {
		g.linked[node] = path
	}
	g.out.PlainBytes += e.Attr.Size
	return node, err
}

// content seals what e.Open returns, which must be exactly as long as announced.
func (g *sealing) content(e Entry, id fileID) (err error) {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	if e.Attr.Size > 0 {
		var head [headerSize]byte
		putFileHeader(head[:], id)
		if _, err := g.pipe.Write(head[:]); err != nil {
			return err
		}
	}
	err = g.pipe.content(r, e.Attr.Size, id)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%q %w: it became shorter", e.Name, ErrChanged)
	}
	if err != nil {
		return err
	}
	var more [1]byte
	if n, err := io.ReadFull(r, more[:]); n > 0 {
		return fmt.Errorf("%q %w: it became longer", e.Name, ErrChanged)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (g *sealing) symlink(e Entry, h tar.Header) (uint32, error) {
	if err := checkTarget(e.Target); err != nil {
		return 0, fmt.Errorf("%q: %w", e.Name, err)
	}
	var nonce [nonceSize]byte
	if _, err := io.ReadFull(g.random, nonce[:]); err != nil {
		return 0, fmt.Errorf("draw nonces: %w", err)
	}
	h.Typeflag, h.Linkname = tar.TypeSymlink, g.codec.cipherTarget(e.Target, nonce[:])
	if err := g.header(h); err != nil {
		return 0, err
	}
	return g.index.add(e, 0)
}

func (g *sealing) link(e Entry, h tar.Header) (uint32, error) {
	first, ok := g.linked[e.Link]
	if !ok {
		return 0, fmt.Errorf("%w: %q is a hard link to no earlier file", ErrPath, e.Name)
	}
	h.Typeflag, h.Linkname, h.ModTime = tar.TypeLink, first, g.mtime
	if err := g.header(h); err != nil {
		return 0, err
	}
	return g.index.add(e, 0)
}

// finish writes index, footer and the end of the tar file.
func (g *sealing) finish() error {
	packed, err := g.index.finish()
	if err != nil {
		return err
	}
	length := int64(indexHeaderSize + len(packed) + tagSize)
	err = g.header(tar.Header{Typeflag: tar.TypeReg, Name: indexName, Mode: 0o600, Size: length, ModTime: g.mtime})
	if err != nil {
		return err
	}
	h := indexHeader{
		magic: indexMagic, id: g.out.ID, offset: g.pipe.off, total: g.pipe.off + padded(length) + afterIndex,
		entries: g.index.entries, inflated: g.index.inflated, packed: uint64(len(packed)),
	}
	if _, err := io.ReadFull(g.random, h.nonce[:]); err != nil {
		return fmt.Errorf("draw nonces: %w", err)
	}
	head := h.encode()
	body := g.codec.index.Seal(packed[:0], h.nonce[:], packed, head)
	digest := newDigest(h.id)
	for _, part := range [][]byte{head, body} {
		digest.Write(part)
		if _, err := g.pipe.Write(part); err != nil {
			return err
		}
	}
	if err := g.pad(); err != nil {
		return err
	}
	g.out.Digest = Digest(digest.Sum(nil))
	g.out.Entries = int(g.index.entries)
	f := footer{id: h.id, total: h.total, offset: h.offset, length: length}
	if err := g.raw(footerName, 0o600, g.mtime, f.encode()); err != nil {
		return err
	}
	if _, err = g.pipe.Write(zeros[:]); err == nil && g.pipe.off != h.total {
		err = fmt.Errorf("the sealed volume has %d bytes instead of %d", g.pipe.off, h.total)
	}
	return err
}
