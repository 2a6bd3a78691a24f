package squashfs

import (
	"context"
	"io"
	"sync"
)

const (
	blockSize = 128 << 10

	// storedRaw in the size of a block says that it is stored as it was.
	storedRaw = 1 << 24

	// inFlight is how many blocks each worker may have waiting, so that one slow block holds nobody up.
	inFlight = 4
)

// block is up to blockSize bytes of content on their way to the image.
type block struct {
	raw    []byte
	packed []byte
	file   *Content // whose next block it is; nil: a fragment
	ready  chan error
}

// data returns what is stored of a block that is ready, and its size as inodes and the fragment table have it.
func (b *block) data() ([]byte, uint32) {
	if len(b.packed) < len(b.raw) {
		return b.packed, uint32(len(b.packed))
	}
	return b.raw, uint32(len(b.raw)) | storedRaw
}

// extent is where a fragment block lies in the image.
type extent struct {
	start uint64
	size  uint32
}

// pipeline compresses blocks on several goroutines and writes them in the order in which they are
// submitted. It holds a bounded number of them.
type pipeline struct {
	ctx   context.Context
	fail  context.CancelCauseFunc
	work  chan *block
	order chan *block
	free  sync.Pool
	group sync.WaitGroup

	// Of the writing goroutine, until it has ended.
	out       *counter
	fragments []extent
}

func startPipeline(ctx context.Context, out *counter, o Options) (*pipeline, error) {
	p := &pipeline{out: out, work: make(chan *block, inFlight*o.Workers), order: make(chan *block, inFlight*o.Workers)}
	p.ctx, p.fail = context.WithCancelCause(ctx)
	p.free.New = func() any {
		return &block{raw: make([]byte, 0, blockSize), packed: make([]byte, 0, blockSize), ready: make(chan error, 1)}
	}
	var encoders []encoder
	for range o.Workers {
		e, err := newEncoder(o.Compression, o.Level)
		if err != nil {
			p.fail(err)
			return nil, err
		}
		encoders = append(encoders, e)
	}
	for _, e := range encoders {
		p.group.Go(func() { p.compress(e) })
	}
	p.group.Go(p.write)
	return p, nil
}

// get returns an empty block.
func (p *pipeline) get() *block {
	b := p.free.Get().(*block)
	b.raw, b.packed, b.file = b.raw[:0], b.packed[:0], nil
	return b
}

// submit hands over a block; it waits while many are under way.
func (p *pipeline) submit(b *block) error {
	if len(b.raw) == 0 {
		b.ready <- nil
	} else if err := p.send(p.work, b); err != nil {
		return err
	}
	return p.send(p.order, b)
}

func (p *pipeline) send(to chan<- *block, b *block) error {
	select {
	case to <- b:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// receive reports false when there will be nothing more, or everything has been stopped.
func receive[T any](p *pipeline, from <-chan T) (v T, ok bool) {
	select {
	case v, ok = <-from:
		return v, ok
	case <-p.ctx.Done():
		return v, false
	}
}

func (p *pipeline) compress(e encoder) {
	for {
		b, ok := receive(p, p.work)
		if !ok {
			return
		}
		var err error
		b.packed, err = e.encode(b.packed, b.raw)
		b.ready <- err
	}
}

// write writes the blocks in their order, and notes in their files and in the fragment table where they are.
func (p *pipeline) write() {
	for {
		b, ok := receive(p, p.order)
		if !ok {
			return
		}
		err, ok := receive(p, b.ready)
		if !ok {
			return
		}
		if err == nil {
			err = p.place(b)
		}
		if err != nil {
			p.fail(err)
			return
		}
		p.free.Put(b)
	}
}

func (p *pipeline) place(b *block) error {
	start := p.out.n
	switch {
	case b.file == nil:
		data, size := b.data()
		p.fragments = append(p.fragments, extent{start, size})
		return writeAll(p.out, data)
	case len(b.raw) == 0:
		b.file.blocks = append(b.file.blocks, 0)
		b.file.sparse += blockSize
		return nil
	}
	if b.file.sparse == uint64(len(b.file.blocks))*blockSize {
		b.file.start = start // no block of it is stored yet
	}
	data, size := b.data()
	b.file.blocks = append(b.file.blocks, size)
	return writeAll(p.out, data)
}

// finish waits until everything that was submitted is written.
func (p *pipeline) finish() error {
	close(p.order)
	close(p.work)
	p.group.Wait()
	err := context.Cause(p.ctx)
	p.fail(nil)
	return err
}

// abort stops everything.
func (p *pipeline) abort() {
	p.fail(context.Canceled)
	p.group.Wait()
}

// counter knows how far the image has been written.
type counter struct {
	w io.Writer
	n uint64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	return n, err
}

func writeAll(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}
