package volume

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"
)

// SegmentSize is the length in bytes of the segments under a volume's checksum.
const SegmentSize = 64 << 20

const (
	// chunkPlain bytes of content are read, encrypted and written at a time;
	// small enough to stay in a core's cache between those steps.
	chunkPlain = 64 * plainBlock
	// chunkOut leaves room for tar headers between small files.
	chunkOut = chunkPlain/plainBlock*cipherBlock + 64<<10
)

// chunk is a stretch of the sealed file in the making: raw bytes are copied
// into out, the ciphertext of each span is put in its place by a worker.
type chunk struct {
	plain  []byte
	out    []byte
	spans  []span
	nonces []byte
	blocks int
	sealed chan struct{} // receives one value when the worker is done
}

// span is a run of a file's blocks within a chunk.
type span struct {
	plain, n int // plaintext: chunk.plain[plain:plain+n]
	out      int // its ciphertext begins at chunk.out[out]
	block    uint64
	id       fileID
}

func newChunk() *chunk {
	return &chunk{
		plain:  make([]byte, 0, chunkPlain),
		out:    make([]byte, 0, chunkOut),
		sealed: make(chan struct{}, 1),
	}
}

func (c *chunk) reset() {
	c.plain, c.out, c.spans, c.blocks = c.plain[:0], c.out[:0], c.spans[:0], 0
}

// seal encrypts the chunk's spans.
func (c *chunk) seal(content *codec, aad *additional) {
	nonces := c.nonces
	for _, s := range c.spans {
		plain, out := c.plain[s.plain:s.plain+s.n], c.out[s.out:]
		for block := s.block; len(plain) > 0; block++ {
			n := min(plainBlock, len(plain))
			nonce := nonces[:nonceSize]
			copy(out, nonce)
			content.content.Seal(out[nonceSize:nonceSize], nonce, plain[:n], aad.set(block, s.id))
			plain, out, nonces = plain[n:], out[n+overhead:], nonces[nonceSize:]
		}
	}
}

// pipeline carries chunks from the layout to the output: workers encrypt them
// in any order, one goroutine writes them in order, one hashes them. A fixed
// set of chunks goes round, which bounds the memory.
type pipeline struct {
	ctx     context.Context
	group   *errgroup.Group
	free    chan *chunk
	work    chan *chunk
	ordered chan *chunk
	written chan *chunk
	random  io.Reader
	sums    segmentHash
	cur     *chunk
	off     int64 // bytes laid out so far
}

// newPipeline starts the goroutines. onWritten is told how many bytes of plaintext
// each chunk has that was written, and how many in all.
func newPipeline(ctx context.Context, w io.Writer, c *codec, random io.Reader, workers int, onWritten func(plain, sealed int)) *pipeline {
	group, ctx := errgroup.WithContext(ctx)
	chunks := 2*workers + 4
	p := &pipeline{
		ctx: ctx, group: group, random: random,
		free: make(chan *chunk, chunks), work: make(chan *chunk, chunks),
		ordered: make(chan *chunk, chunks), written: make(chan *chunk, chunks),
	}
	for range chunks {
		p.free <- newChunk()
	}
	for range workers {
		group.Go(func() error {
			var aad additional
			for ch := range p.work {
				ch.seal(c, &aad)
				ch.sealed <- struct{}{}
			}
			return nil
		})
	}
	group.Go(func() error { return p.write(w, onWritten) })
	group.Go(func() error {
		for ch := range p.written {
			p.sums.Write(ch.out)
			p.free <- ch
		}
		return nil
	})
	return p
}

func (p *pipeline) write(w io.Writer, onWritten func(plain, sealed int)) error {
	defer close(p.written)
	for ch := range p.ordered {
		<-ch.sealed
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if _, err := w.Write(ch.out); err != nil {
			return fmt.Errorf("write the sealed volume: %w", err)
		}
		onWritten(len(ch.plain), len(ch.out))
		p.written <- ch
	}
	return nil
}

// chunk returns the chunk being laid out, with room for at least one byte.
func (p *pipeline) chunk() (*chunk, error) {
	if p.cur != nil && (len(p.cur.out) == cap(p.cur.out) || len(p.cur.plain) == cap(p.cur.plain)) {
		if err := p.dispatch(); err != nil {
			return nil, err
		}
	}
	if p.cur == nil {
		select {
		case p.cur = <-p.free:
			p.cur.reset()
		case <-p.ctx.Done():
			return nil, context.Cause(p.ctx)
		}
	}
	return p.cur, nil
}

// dispatch hands the current chunk on. Nonces are drawn here, in order, in one
// read a chunk.
func (p *pipeline) dispatch() error {
	ch := p.cur
	p.cur = nil
	if n := ch.blocks * nonceSize; n > cap(ch.nonces) {
		ch.nonces = make([]byte, n)
	} else {
		ch.nonces = ch.nonces[:n]
	}
	if _, err := io.ReadFull(p.random, ch.nonces); err != nil {
		return fmt.Errorf("draw nonces: %w", err)
	}
	p.work <- ch // cannot block: the channel holds all chunks
	p.ordered <- ch
	return nil
}

// Write lays out raw bytes.
func (p *pipeline) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		ch, err := p.chunk()
		if err != nil {
			return done, err
		}
		n := copy(ch.out[len(ch.out):cap(ch.out)], b[done:])
		ch.out = ch.out[:len(ch.out)+n]
		done += n
		p.off += int64(n)
	}
	return done, nil
}

// content lays out size bytes read from r as the blocks of a file.
func (p *pipeline) content(r io.Reader, size int64, id fileID) error {
	for done := int64(0); done < size; {
		room, err := p.reserve(size - done)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(r, room); err != nil {
			return err
		}
		p.lay(len(room), done, id)
		done += int64(len(room))
	}
	return nil
}

// reserve returns room for the next left bytes of a file: all, or whole blocks. It is taken by lay, which comes next.
func (p *pipeline) reserve(left int64) ([]byte, error) {
	for {
		ch, err := p.chunk()
		if err != nil {
			return nil, err
		}
		if n, at := ch.room(left), len(ch.plain); n > 0 {
			return ch.plain[at : at+n], nil
		}
		if err := p.dispatch(); err != nil {
			return nil, err
		}
	}
}

// lay lays out the first n bytes of what reserve returned, which are a file's from done on, as blocks.
func (p *pipeline) lay(n int, done int64, id fileID) {
	if n == 0 {
		return
	}
	ch, at := p.cur, len(p.cur.plain)
	ch.plain = ch.plain[:at+n]
	blocks := (n + plainBlock - 1) / plainBlock
	ch.spans = append(ch.spans, span{plain: at, n: n, out: len(ch.out), block: uint64(done / plainBlock), id: id})
	ch.out = ch.out[:len(ch.out)+n+blocks*overhead]
	ch.blocks += blocks
	p.off += int64(n + blocks*overhead)
}

// room returns how many of the next left bytes of a file fit: all, or whole blocks.
func (ch *chunk) room(left int64) int {
	plain := cap(ch.plain) - len(ch.plain)
	blocks := (cap(ch.out) - len(ch.out)) / cipherBlock
	if left <= int64(min(plain, blocks*plainBlock)) {
		return int(left)
	}
	return min(plain/plainBlock, blocks) * plainBlock
}

// close writes what is left and waits for all goroutines. A failure of theirs
// comes first: it is why the layout stopped.
func (p *pipeline) close(cause error) error {
	if cause == nil && p.cur != nil {
		cause = p.dispatch()
	}
	close(p.work)
	close(p.ordered)
	if cause != nil {
		p.group.Go(func() error { return cause })
	}
	return p.group.Wait()
}

// ReadChecksum reads a whole file for its checksum, as Sealed and info files give it.
func ReadChecksum(ctx context.Context, r io.Reader) (Digest, error) {
	var sums segmentHash
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return Digest{}, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		sums.Write(buf[:n])
		if err == io.EOF {
			return ChecksumOf(sums.finish()), nil
		}
		if err != nil {
			return Digest{}, err
		}
	}
}

// segmentHash hashes a stream in segments.
type segmentHash struct {
	cur      hash.Hash
	fill     int
	segments []Digest
}

func (s *segmentHash) Write(b []byte) {
	for len(b) > 0 {
		if s.cur == nil {
			s.cur = sha256.New()
		}
		n := min(len(b), SegmentSize-s.fill)
		s.cur.Write(b[:n])
		s.fill += n
		b = b[n:]
		if s.fill == SegmentSize {
			s.cut()
		}
	}
}

func (s *segmentHash) cut() {
	s.segments = append(s.segments, Digest(s.cur.Sum(nil)))
	s.cur.Reset()
	s.fill = 0
}

// finish returns all segments.
func (s *segmentHash) finish() []Digest {
	if s.fill > 0 {
		s.cut()
	}
	return s.segments
}

// ChecksumOf returns the checksum of a file whose segments have these digests: the
// SHA-256 over them.
func ChecksumOf(segments []Digest) Digest {
	h := sha256.New()
	for _, s := range segments {
		h.Write(s[:])
	}
	return Digest(h.Sum(nil))
}
