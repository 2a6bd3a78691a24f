package spool

import (
	"bufio"
	"errors"
	"io"
	"sync"
)

// Writer takes the bytes of one blob, in order. It is for one goroutine; several
// writers of one spool work side by side.
type Writer struct {
	s       *Spool
	slots   []uint64
	size    int64
	pending []byte // of the block that is not complete
	scratch []byte
	err     error
}

// Create begins a blob.
func (s *Spool) Create() *Writer {
	return &Writer{s: s, pending: make([]byte, 0, BlockSize), scratch: make([]byte, slotSize)}
}

// Write adds p to the blob. After an error nothing more is taken.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && w.err == nil {
		part := p[:min(len(p), BlockSize-len(w.pending))]
		w.pending = append(w.pending, part...)
		if len(w.pending) == BlockSize && !w.flush() {
			break
		}
		n, p = n+len(part), p[len(part):]
		w.size += int64(len(part))
	}
	return n, w.err
}

func (w *Writer) flush() bool {
	slot, err := w.s.put(w.pending, w.scratch)
	if err != nil {
		w.err = err
		return false
	}
	w.slots, w.pending = append(w.slots, slot), w.pending[:0]
	return true
}

var errFinished = errors.New("the blob is finished")

// Finish ends the blob. A writer that is left without it costs the slots that it has filled.
func (w *Writer) Finish() (*Blob, error) {
	if w.err != nil {
		return nil, w.err
	}
	if len(w.pending) > 0 && !w.flush() {
		return nil, w.err
	}
	b := &Blob{s: w.s, slots: w.slots, size: w.size}
	w.err, w.pending, w.scratch = errFinished, nil, nil
	return b, nil
}

// Blob is what a Writer took. It can be read by several goroutines at once, and
// at any offset.
type Blob struct {
	s     *Spool
	slots []uint64 // one for each block
	size  int64
}

// Size returns the blob's length in bytes.
func (b *Blob) Size() int64 { return b.size }

var scratches = sync.Pool{New: func() any { return new([slotSize]byte) }}

// ReadAt reads as io.ReaderAt does: ErrDamaged if the file does not hold what was written.
func (b *Blob) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	scratch := scratches.Get().(*[slotSize]byte)
	defer func() {
		clear(scratch[:])
		scratches.Put(scratch)
	}()
	for n < len(p) {
		at := off + int64(n)
		if at >= b.size {
			return n, io.EOF
		}
		i := at / BlockSize
		block, err := b.s.get(b.slots[i], int(min(BlockSize, b.size-i*BlockSize)), scratch[:])
		if err != nil {
			return n, err
		}
		n += copy(p[n:], block[at-i*BlockSize:])
	}
	return n, nil
}

// Reader returns a reader of the whole blob, which opens each block once.
func (b *Blob) Reader() io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(b, 0, b.size), BlockSize)
}
