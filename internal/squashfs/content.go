package squashfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// noFragment in an inode's place of a fragment says that there is none.
const noFragment = 1<<32 - 1

// maxHeld is the size of the largest file that is kept back until it is known whether the image has it
// already. A larger one is written at once.
const maxHeld = 32 << 20

// Content is the content of a file that [Writer.Add] took in.
type Content struct {
	size   uint64
	start  uint64   // where the first block that is stored lies in the image
	sparse uint64   // bytes in blocks that are not stored, being zero
	blocks []uint32 // stored size and flag of each, 0 for zeros
	// The rest that fills no block lies in a fragment, at an offset in what is uncompressed.
	fragment, offset uint32
}

type digest = [sha256.Size]byte

// beginning is what files that may be equal have in common.
type beginning struct {
	size  int64
	first digest // of the first block
}

// store takes contents in: whole blocks go to the pipeline, what is left to the open fragment.
type store struct {
	pipe  *pipeline
	limit int64 // maxHeld
	known map[digest]*Content
	begun map[beginning]struct{} // of files that have whole blocks

	fragment  *block // the open one
	fragments uint32 // how many were closed

	rest []byte // of the file that is being taken in
	held []*block
}

var (
	zeros      = make([]byte, blockSize)
	zerosBlock = sha256.Sum256(zeros)
)

func newStore(p *pipeline) *store {
	return &store{pipe: p, limit: maxHeld, known: map[digest]*Content{}, begun: map[beginning]struct{}{},
		rest: make([]byte, blockSize), fragment: p.get()}
}

// add takes in one file. Two files are equal if their sizes and the digests of their blocks are.
func (s *store) add(r io.Reader, size int64) (*Content, error) {
	if size < 0 {
		return nil, fmt.Errorf("squashfs: a file of %d bytes", size)
	}
	c := &Content{size: uint64(size), fragment: noFragment}
	sum := sha256.New()
	fmt.Fprintf(sum, "%d\n", size)
	hold := false
	for at := int64(0); size-at >= blockSize; at += blockSize {
		b, d, err := s.read(r, c)
		if err != nil {
			return nil, err
		}
		sum.Write(d[:])
		if at == 0 {
			hold = s.mayBeKnown(beginning{size, d})
		}
		if hold {
			s.held = append(s.held, b)
		} else if err := s.pipe.submit(b); err != nil {
			return nil, err
		}
	}
	rest := s.rest[:size%blockSize]
	if err := readExactly(r, rest); err != nil {
		return nil, err
	}
	if err := atEnd(r); err != nil {
		return nil, err
	}
	d := sha256.Sum256(rest)
	sum.Write(d[:])
	return s.settle(c, rest, digest(sum.Sum(nil)))
}

// read reads the next whole block. One of zeros is left empty.
func (s *store) read(r io.Reader, c *Content) (*block, digest, error) {
	b := s.pipe.get()
	b.file = c
	b.raw = b.raw[:blockSize]
	if err := readExactly(r, b.raw); err != nil {
		return nil, digest{}, err
	}
	if bytes.Equal(b.raw, zeros) {
		b.raw = b.raw[:0]
		return b, zerosBlock, nil
	}
	return b, sha256.Sum256(b.raw), nil
}

// mayBeKnown reports whether a file that begins like this has been taken in, and notes that one is now.
func (s *store) mayBeKnown(b beginning) bool {
	_, known := s.begun[b]
	s.begun[b] = struct{}{}
	return known && b.size <= s.limit
}

// settle ends a file: it is one that the image has, or what was held back of it and the rest are stored.
func (s *store) settle(c *Content, rest []byte, sum digest) (*Content, error) {
	held := s.held
	s.held = s.held[:0]
	if k := s.known[sum]; k != nil {
		for _, b := range held {
			s.pipe.free.Put(b)
		}
		return k, nil
	}
	for _, b := range held {
		if err := s.pipe.submit(b); err != nil {
			return nil, err
		}
	}
	s.known[sum] = c
	if len(rest) == 0 {
		return c, nil
	}
	if len(s.fragment.raw)+len(rest) > blockSize {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	c.fragment, c.offset = s.fragments, uint32(len(s.fragment.raw))
	s.fragment.raw = append(s.fragment.raw, rest...)
	return c, nil
}

// flush closes the open fragment.
func (s *store) flush() error {
	if len(s.fragment.raw) == 0 {
		return nil
	}
	b := s.fragment
	s.fragment = s.pipe.get()
	s.fragments++
	return s.pipe.submit(b)
}

func readExactly(r io.Reader, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("squashfs: reading a file: %w", err)
	}
	return nil
}

// atEnd fails unless r is at its end.
func atEnd(r io.Reader) error {
	var one [1]byte
	switch _, err := io.ReadFull(r, one[:]); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("squashfs: reading a file: %w", err)
	}
	return errors.New("squashfs: a file is longer than its size")
}
