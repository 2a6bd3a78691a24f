package containerprep

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// sifFile is a SIF file whose digest was taken: what is sealed has to be the same.
type sifFile struct {
	source.Input
	was fs.FileInfo // when it was
}

// digest reads the file at path.
func (s *sifFile) digest(ctx context.Context, path string) (d manifest.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, fault.New(fault.Usage, err, "")
	}
	defer f.Close()
	if s.was, err = f.Stat(); err != nil {
		return d, err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if ctx.Err() != nil {
			return d, context.Cause(ctx)
		}
		if err == io.EOF {
			return manifest.Digest(h.Sum(nil)), nil
		}
		if err != nil {
			return d, err
		}
	}
}

// Scan fails with ErrChanged if the file is not what it was. It is asked before sealing and after.
func (s sifFile) Scan(ctx context.Context) (volume.Usage, volume.Digest, error) {
	path := s.Paths[0]
	is, err := os.Stat(path)
	if err == nil && (!os.SameFile(is, s.was) || is.Size() != s.was.Size() || !is.ModTime().Equal(s.was.ModTime())) {
		err = fmt.Errorf("%q %w", path, volume.ErrChanged)
	}
	if err != nil {
		return volume.Usage{}, volume.Digest{}, err
	}
	return s.Input.Scan(ctx)
}
