package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/inflate"
	"github.com/sealbatch/sealbatch/internal/spool"
	"github.com/sealbatch/sealbatch/internal/text"
)

// inflated opens the archive in f, which is compressed: it is read once, and what it holds goes to a spool.
func (o Options) inflated(ctx context.Context, f *os.File, size int64, format inflate.Format) (*archive, error) {
	in := &metered{ctx: ctx, r: io.NewSectionReader(f, 0, size)}
	bar := o.Progress.Start("unpack", 0, size)
	in.tell = func(n int64) { bar.Update(n, size) }
	plain, free, err := inflate.NewReader(bufio.NewReaderSize(in, 256<<10), format)
	if err != nil {
		bar.End(false)
		return nil, unpacked(ctx, err)
	}
	defer free()
	a, err := o.spooled(&bounded{r: plain, in: in})
	bar.End(err == nil)
	if err != nil {
		return nil, unpacked(ctx, err)
	}
	return a, f.Close()
}

// unpacked says that the archive is at fault if err came of unpacking it.
func unpacked(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, spool.ErrFull) || errors.Is(err, ErrFormat) {
		return err
	}
	return fmt.Errorf("%w: it does not unpack: %w", ErrFormat, err)
}

// spooled opens the archive that r holds: all of it goes to a spool, from which the archive is read.
func (o Options) spooled(r io.Reader) (*archive, error) {
	s, err := spool.New(o.SpoolDir)
	if err != nil {
		return nil, err
	}
	w := s.Create()
	if _, err = io.CopyBuffer(w, r, make([]byte, 256<<10)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	blob, err := w.Finish()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	a, err := openArchive(blob, blob.Size(), s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return a, nil
}

// metered counts what is read, and ends with its context.
type metered struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	tell func(n int64)
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	m.tell(m.n)
	return n, err
}

// Bounds of compressed archives: what unpacks to more than both is meant to fill disks. gzip reaches a ratio of 1032.
const (
	freeSize = 1 << 30
	maxRatio = 100
)

// bounded is what in unpacks to.
type bounded struct {
	r  io.Reader
	in *metered
	n  int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.n += int64(n); b.n > freeSize && b.n/maxRatio > b.in.n {
		err := fmt.Errorf("%w: it unpacks to more than %s, more than %d times what it has", ErrFormat, text.Size(freeSize), maxRatio)
		return n, fault.New(fault.Usage, err, "if that is as it should be, unpack it first")
	}
	return n, err
}
