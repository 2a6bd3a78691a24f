package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Late is content whose first HeadSize bytes, and whose size, are known only when the rest is written: a format whose
// header says where things lie in it. SealFile alone can seal it, one in a volume, and it must come so early that the
// head lies in the sealed file's first SegmentSize bytes.
type Late struct {
	HeadSize int64
	// Write writes the content that follows the head to w, in order, and then returns the head, HeadSize bytes. It is
	// called at most once, before emit returns, and w serves no longer.
	Write func(ctx context.Context, w io.Writer) (head []byte, err error)
}

// ErrNotSeekable: an Entry with Late content, sealed by Seal.
var ErrNotSeekable = errors.New("its beginning is known last: it can be sealed into a file only, not into a stream")

// rewritable is a sealed file whose beginning can be written last.
type rewritable interface {
	io.ReaderAt
	io.WriterAt
}

// patch is what was left open of the sealed file, zeros so far.
type patch struct {
	at int64
	b  []byte
}

// late seals an entry with Late content: zeros take the place of the tar header and of the head's blocks.
func (g *sealing) late(e Entry, h tar.Header) (uint32, error) {
	header, err := sizedHeader(h, 0)
	if err == nil {
		err = g.canBeLate(e, g.pipe.off+int64(len(header)))
	}
	if err != nil {
		return 0, err
	}
	at, w := g.pipe.off, newLateWriter(g.pipe, g.ids.id(g.index.nodes), e.Late.HeadSize)
	g.final.Store(SegmentSize)
	if err := w.leave(int64(len(header))); err != nil {
		return 0, err
	}
	start := g.pipe.off
	head, err := w.take(g.pipe.ctx, e)
	if err != nil {
		return 0, err
	}
	e.Attr.Size = w.size()
	if header, err = sizedHeader(h, cipherSize(e.Attr.Size)); err != nil {
		return 0, err
	}
	if e.Attr.Size > 0 {
		if head, err = g.sealHead(head, w.id); err != nil {
			return 0, err
		}
	}
	g.open = &patch{at: at, b: append(header, head...)}
	node, err := g.enter(e, h.Name, start)
	if err != nil {
		return 0, err
	}
	return node, g.pad()
}

// canBeLate reports why e's head, with its ciphertext from start on, cannot be left open.
func (g *sealing) canBeLate(e Entry, start int64) error {
	switch {
	case g.rewritable == nil:
		return fmt.Errorf("%q: %w", e.Name, ErrNotSeekable)
	case g.open != nil:
		return fmt.Errorf("%w: %q is the second file whose head comes last", ErrPath, e.Name)
	case e.Late.HeadSize < 0 || e.Late.HeadSize > SegmentSize || start+gap(e.Late.HeadSize) > SegmentSize:
		return fmt.Errorf("%w: the head of %q does not lie in the first %d bytes", ErrPath, e.Name, SegmentSize)
	}
	return nil
}

// sealHead returns the file's header and its first blocks, encrypted.
func (g *sealing) sealHead(plain []byte, id fileID) ([]byte, error) {
	blocks := int(blocksOf(int64(len(plain))))
	ch := chunk{plain: plain, out: make([]byte, headerSize+len(plain)+blocks*overhead),
		nonces: make([]byte, blocks*nonceSize), spans: []span{{n: len(plain), out: headerSize, id: id}}}
	if _, err := io.ReadFull(g.random, ch.nonces); err != nil {
		return nil, fmt.Errorf("draw nonces: %w", err)
	}
	putFileHeader(ch.out, id)
	ch.seal(g.codec, new(additional))
	return ch.out, nil
}

// close writes what was left open into the sealed file, when all else is there, and settles the first segment's digest.
func (g *sealing) close(ctx context.Context) (err error) {
	if g.open == nil {
		return nil
	}
	first := &g.out.Segments[0]
	if *first, err = g.open.digest(ctx, g.rewritable, min(SegmentSize, g.out.Size), *first); err != nil {
		return err
	}
	if _, err = g.rewritable.WriteAt(g.open.b, g.open.at); err != nil {
		return fmt.Errorf("write the sealed volume: %w", err)
	}
	return nil
}

// digest returns the digest that the first segment has with the patch. was is the one that it has without: what is
// read back is what was written, whoever else can write the file.
func (o *patch) digest(ctx context.Context, f io.ReaderAt, size int64, was Digest) (Digest, error) {
	before, after := sha256.New(), sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if ctx.Err() != nil {
			return Digest{}, context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), size-off)]
		if err := readFullAt(f, b, off); err != nil {
			return Digest{}, fmt.Errorf("read the sealed volume: %w", err)
		}
		before.Write(b)
		o.over(b, off)
		after.Write(b)
	}
	if Digest(before.Sum(nil)) != was {
		return Digest{}, fmt.Errorf("the sealed file was altered while it was made: %w", ErrChecksum)
	}
	return Digest(after.Sum(nil)), nil
}

// over puts what of the patch belongs into b, which lies at off in the file.
func (o *patch) over(b []byte, off int64) {
	from, to := max(o.at, off), min(o.at+int64(len(o.b)), off+int64(len(b)))
	if from < to {
		copy(b[from-off:to-off], o.b[from-o.at:])
	}
}

// largestPlain is the largest size that a plain tar header can hold: eleven octal digits.
const largestPlain = 1<<33 - 1

// sizedHeader returns a tar header that is equally long whatever the size: a PAX record has the size, with zeros
// before it, and the plain field has it too, where it can.
func sizedHeader(h tar.Header, size int64) ([]byte, error) {
	const digits, stand = 19, 1_000_000_000_000_000_000
	h.Size, h.Typeflag, h.Format, h.ModTime = stand, tar.TypeReg, tar.FormatPAX, h.ModTime.Truncate(time.Second)
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&h); err != nil {
		return nil, fmt.Errorf("write the sealed volume: %w", err)
	}
	b := out.Bytes()
	record := fmt.Appendf(nil, " size=%d\n", int64(stand))
	at := bytes.LastIndex(b[:len(b)-tarBlock], record)
	if at < 0 {
		return nil, errors.New("write the sealed volume: a tar header has no record of the size")
	}
	copy(b[at:], fmt.Appendf(nil, " size=%0*d\n", digits, size))
	last := b[len(b)-tarBlock:]
	if size <= largestPlain {
		copy(last[124:136], fmt.Appendf(nil, "%011o\x00", size))
	}
	var sum int64
	copy(last[148:156], "        ")
	for _, c := range last {
		sum += int64(c)
	}
	copy(last[148:156], fmt.Appendf(nil, "%06o\x00 ", sum))
	return b, nil
}

// lateWriter lays out the content that follows a head. What shares a block with the head waits for it.
type lateWriter struct {
	p     *pipeline
	id    fileID
	head  int64  // bytes of the head
	wait  []byte // what shares its last block
	begun bool   // the head's place is laid out, as more has come
	laid  int64  // bytes of the file that are laid out
	room  []byte // of the chunk, for what comes next
	fill  int    // bytes of it that are taken
	err   error
}

func newLateWriter(p *pipeline, id fileID, head int64) *lateWriter {
	return &lateWriter{p: p, id: id, head: head, wait: make([]byte, 0, blocksOf(head)*plainBlock-head)}
}

// gap returns the size of what is left open for a head, if more than the rest of its last block follows.
func gap(head int64) int64 { return headerSize + blocksOf(head)*cipherBlock }

// take has the content written, and returns the head with what shares a block with it.
func (w *lateWriter) take(ctx context.Context, e Entry) ([]byte, error) {
	head, err := e.Late.Write(ctx, w)
	switch {
	case err != nil:
		return nil, err
	case w.err != nil:
		return nil, w.err
	case int64(len(head)) != w.head:
		return nil, fmt.Errorf("the head of %q has %d bytes instead of %d", e.Name, len(head), w.head)
	case w.size() > maxFileSize:
		return nil, fmt.Errorf("%w: a file of %d bytes", ErrPath, w.size())
	}
	if w.begun {
		w.lay()
	} else if err := w.leave(cipherSize(w.size())); err != nil {
		return nil, err
	}
	return slices.Concat(head, w.wait), nil
}

// size returns how much of the file there is.
func (w *lateWriter) size() int64 {
	if w.begun {
		return w.laid + int64(w.fill)
	}
	return w.head + int64(len(w.wait))
}

// leave lays out n zeros.
func (w *lateWriter) leave(n int64) error {
	for ; n > 0; n -= int64(len(zeros)) {
		if _, err := w.p.Write(zeros[:min(n, int64(len(zeros)))]); err != nil {
			return err
		}
	}
	return nil
}

// Write lays out content.
func (w *lateWriter) Write(b []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	if !w.begun {
		n = copy(w.wait[len(w.wait):cap(w.wait)], b)
		w.wait = w.wait[:len(w.wait)+n]
	}
	for n < len(b) {
		if w.err = w.next(); w.err != nil {
			return n, w.err
		}
		c := copy(w.room[w.fill:], b[n:])
		w.fill += c
		n += c
	}
	return n, nil
}

// next sees to it that there is room.
func (w *lateWriter) next() (err error) {
	if w.fill < len(w.room) {
		return nil
	}
	if !w.begun {
		if err := w.leave(gap(w.head)); err != nil {
			return err
		}
		w.begun, w.laid = true, blocksOf(w.head)*plainBlock
	}
	w.lay()
	w.room, err = w.p.reserve(math.MaxInt64)
	return err
}

// lay makes blocks of what fills the room.
func (w *lateWriter) lay() {
	w.p.lay(w.fill, w.laid, w.id)
	w.laid += int64(w.fill)
	w.room, w.fill = nil, 0
}
