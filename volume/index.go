package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// indexWindow bounds the memory that compressing and inflating an index needs.
const indexWindow = 4 << 20

// minRecord is the length of the shortest record but the root's.
const minRecord = 5

// indexWriter collects the index: records are compressed as they come, so that
// only their compressed form is held.
type indexWriter struct {
	packed   bytes.Buffer
	zw       *zstd.Encoder
	rec      []byte
	entries  uint64
	inflated uint64
	nodes    uint32
	end      int64 // where the last file's ciphertext ended
}

func newIndexWriter() (*indexWriter, error) {
	w := &indexWriter{}
	zw, err := zstd.NewWriter(&w.packed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(indexWindow))
	if err != nil {
		return nil, fmt.Errorf("compress the index: %w", err)
	}
	w.zw = zw
	return w, nil
}

// add appends the record of e, whose ciphertext begins at offset, and returns
// its node's number.
func (w *indexWriter) add(e Entry, offset int64) (uint32, error) {
	return w.record(e, func() {
		if e.Attr.Type == File && e.Attr.Size > 0 {
			w.number(uint64(offset - w.end))
			w.end = offset + cipherSize(e.Attr.Size)
		}
	})
}

// record appends the record of e; place adds where its content is.
func (w *indexWriter) record(e Entry, place func()) (uint32, error) {
	node := w.nodes
	w.rec = w.rec[:0]
	switch {
	case node == 0:
		w.attr(e.Attr)
		place()
	case e.IsLink:
		w.name(recordLink, e)
		w.number(uint64(e.Link))
		node = e.Link
	default:
		w.name(e.Attr.Type, e)
		w.attr(e.Attr)
		switch e.Attr.Type {
		case File:
			w.number(uint64(e.Attr.Size))
		case Symlink:
			w.text(e.Target)
		}
		place()
	}
	if w.nodes > 0 {
		w.entries++
	}
	if !e.IsLink {
		w.nodes++
	}
	w.inflated += uint64(len(w.rec))
	if w.entries > maxEntries || w.inflated > maxInflated {
		return 0, fmt.Errorf("%w: more than a volume's index can hold", ErrPath)
	}
	if _, err := w.zw.Write(w.rec); err != nil {
		return 0, fmt.Errorf("compress the index: %w", err)
	}
	return node, nil
}

func (w *indexWriter) number(n uint64) { w.rec = binary.AppendUvarint(w.rec, n) }

func (w *indexWriter) text(s string) {
	w.number(uint64(len(s)))
	w.rec = append(w.rec, s...)
}

func (w *indexWriter) name(t Type, e Entry) {
	w.rec = append(w.rec, byte(t))
	w.number(uint64(e.Parent))
	w.text(e.Name)
}

func (w *indexWriter) attr(a Attr) {
	w.number(uint64(a.Mode))
	w.rec = binary.AppendVarint(w.rec, a.Mtime.Unix())
	w.number(uint64(a.Mtime.Nanosecond()))
}

// finish returns the compressed index, with room for a tag behind it.
func (w *indexWriter) finish() ([]byte, error) {
	if err := w.zw.Close(); err != nil {
		return nil, fmt.Errorf("compress the index: %w", err)
	}
	if w.packed.Len() > maxPacked {
		return nil, fmt.Errorf("%w: more than a volume's index can hold", ErrPath)
	}
	w.packed.Grow(tagSize)
	return w.packed.Bytes(), nil
}

// inflate decompresses an authenticated index while parsing it. places is not
// nil if it is a cipher directory's.
func inflate(packed []byte, h indexHeader, places *dirPlaces) (*tree, error) {
	zr, err := zstd.NewReader(bytes.NewReader(packed),
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(indexWindow), zstd.WithDecoderMaxMemory(indexWindow))
	if err != nil {
		return nil, fmt.Errorf("inflate the index: %w", err)
	}
	defer zr.Close()
	return parseIndex(zr, h, places)
}

// parseIndex builds the tree from the inflated index in r.
func parseIndex(r io.Reader, h indexHeader, places *dirPlaces) (*tree, error) {
	p := newIndexParser(r, h)
	p.places = places
	if err := p.parse(); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends early")
		}
		if !errors.Is(err, ErrIntegrity) {
			err = fmt.Errorf("%w: record %d: %w", ErrIndex, p.record, err)
		}
		return nil, err
	}
	return p.t, p.t.link()
}
