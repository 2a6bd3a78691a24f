package layers

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strings"

	"github.com/sealbatch/sealbatch/internal/inflate"
)

// blob is one reading of a layer.
type blob struct {
	layer  Layer
	rc     io.ReadCloser
	stored tally // the blob
	plain  tally // the tar in it
	free   func()
}

// openBlob begins to read a layer. compressed and uncompressed are told of every byte, and
// may refuse it.
func openBlob(ctx context.Context, l Layer, compressed, uncompressed func(int64) error) (*blob, error) {
	diff, err := newSum(l.DiffID)
	if err != nil {
		return nil, err
	}
	b := &blob{layer: l, free: func() {}}
	if l.Digest != "" {
		if b.stored.sum, err = newSum(l.Digest); err != nil {
			return nil, err
		}
	}
	if b.rc, err = l.Open(ctx); err != nil {
		return nil, err
	}
	b.stored.r = b.rc
	b.stored.count = func(n int64) error {
		if l.Size >= 0 && b.stored.n > l.Size {
			return refuse(ErrDigest, "", "it is longer than the %d bytes that the image says", l.Size)
		}
		return errors.Join(context.Cause(ctx), compressed(n))
	}
	b.plain.count = func(n int64) error { return errors.Join(context.Cause(ctx), uncompressed(n)) }
	begin := bufio.NewReaderSize(&b.stored, 256<<10)
	first, err := begin.Peek(512)
	if err != nil && err != io.EOF {
		b.close()
		return nil, b.explain(err)
	}
	format := formatOf(l.MediaType, first)
	if format != inflate.None || l.Digest != l.DiffID {
		b.plain.sum = diff // otherwise it would be one sum twice
	}
	if b.plain.r, b.free, err = inflate.NewReader(begin, format); err != nil {
		err = b.explain(err)
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *blob) close() {
	b.free()
	b.rc.Close()
}

// finish reads what is left, and compares both digests.
func (b *blob) finish() error {
	// Behind a tar's end there are zeros, or what nobody unpacks, and behind compressed data zeros, or an index
	// (eStargz, zstd:chunked).
	if _, err := io.Copy(io.Discard, &b.plain); err != nil {
		return b.explain(err)
	}
	if err := b.checkStored(); err != nil {
		return err
	}
	if b.plain.sum != nil && !b.plain.sum.matches() {
		return refuse(ErrDigest, "", "what it holds is not what the image says (diff id %s)", Short(b.layer.DiffID))
	}
	return nil
}

// checkStored reads the blob to its end and compares its length and its digest.
func (b *blob) checkStored() error {
	if _, err := io.Copy(io.Discard, &b.stored); err != nil {
		return err
	}
	switch {
	case b.layer.Size >= 0 && b.stored.n < b.layer.Size:
		return refuse(ErrDigest, "", "it is cut off: %d of %d bytes are there", b.stored.n, b.layer.Size)
	case b.stored.sum != nil && !b.stored.sum.matches():
		return refuse(ErrDigest, "", "it is not what its digest says: it was damaged, or exchanged")
	}
	return nil
}

// explain returns why reading failed with err: what could not be read, or was too much, comes first; then that the
// blob is another one than the digest says; and only then what is wrong with what it holds.
func (b *blob) explain(err error) error {
	var p *problem
	known := errors.As(err, &p)
	switch {
	case b.stored.err != nil:
		return b.stored.err
	case b.plain.err != nil && errors.As(b.plain.err, &p):
		return b.plain.err
	case known && p.kind != ErrFormat:
		return err
	}
	if err := b.checkStored(); err != nil {
		return err
	}
	switch {
	case known:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(ErrFormat, "", "it is cut off")
	case errors.Is(err, tar.ErrFieldTooLong):
		return refuse(ErrTooLarge, "", "an entry has a header of more than 1 MiB")
	case errors.Is(err, tar.ErrHeader):
		return refuse(ErrFormat, "", "it is damaged, or no tar archive")
	}
	return &problem{kind: ErrFormat, text: "it is damaged, or no tar archive", cause: err}
}

// tally counts, sums and bounds what is read.
type tally struct {
	r     io.Reader
	sum   *sum // nil: no sum is wanted
	n     int64
	count func(int64) error
	err   error // why reading ended, if not with the end
}

// Read implements io.Reader.
func (t *tally) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	t.n += int64(n)
	if t.sum != nil {
		t.sum.h.Write(p[:n])
	}
	if too := t.count(int64(n)); too != nil {
		err = too
	}
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// sum is a digest to be compared.
type sum struct {
	h    hash.Hash
	want string // in hex
}

func (s *sum) matches() bool { return hex.EncodeToString(s.h.Sum(nil)) == s.want }

// newSum returns the sum that is to become digest.
func newSum(digest string) (*sum, error) {
	algorithm, digits, _ := strings.Cut(digest, ":")
	var h hash.Hash
	switch algorithm {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	}
	raw, err := hex.DecodeString(digits)
	if h == nil || err != nil || len(raw) != h.Size() || strings.ToLower(digits) != digits {
		return nil, refuse(ErrFormat, "", "%s is no digest that can be checked (sha256 and sha512 are)", quoted(digest))
	}
	return &sum{h, digits}, nil
}
