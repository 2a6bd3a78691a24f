package hpcs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/inflate"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// Dataset is what a dataset's file holds: the directory that HPCS packed, as a publish.Input.
type Dataset struct {
	*Artefact
	Top     string // the directory's name, which Top finds; "" if there is none
	Exclude []source.Pattern
}

// Top returns the name of the directory that was packed, with which the archive begins; "" if it begins with something else.
func (a *Artefact) Top(ctx context.Context) (string, error) {
	s, err := a.Stream(ctx)
	if err != nil {
		return "", err
	}
	defer s.Close()
	plain, free, err := inflate.NewReader(bufio.NewReader(s), inflate.Gzip)
	if err != nil {
		return "", a.noArchive(err)
	}
	defer free()
	h, err := tar.NewReader(plain).Next()
	if err != nil {
		return "", a.noArchive(err)
	}
	name := strings.TrimSuffix(h.Name, "/")
	if h.Typeflag != tar.TypeDir || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return "", nil
	}
	return name, nil
}

// noArchive is the error of what holds no archive.
func (a *Artefact) noArchive(err error) error {
	if fault.ClassOf(err) == fault.Integrity {
		return err
	}
	return fault.New(fault.Integrity, fmt.Errorf("%s holds no tar.gz, as HPCS's datasets do: %w", a.Shown, err),
		"for an image there is container-prep --from-hpcs")
}

// Scan implements publish.Input. How much an archive holds is not known.
func (d Dataset) Scan(context.Context) (volume.Usage, volume.Digest, error) {
	return volume.Usage{}, d.fingerprint(fmt.Sprintf("%q %q", d.Top, d.Exclude)), nil
}

// Walk implements volume.Source.
func (d Dataset) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	s, err := d.Stream(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	err = source.Tar(ctx, s, d.Top, d.Exclude, emit)
	if errors.Is(err, source.ErrArchive) && fault.ClassOf(err) != fault.Integrity {
		err = fault.New(fault.Integrity, fmt.Errorf("%s: %w", d.Shown, err), "unpack it where you trust the disk, and prepare the directory with -i")
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, s) // to the end, where the checksum is
	return err
}

// Image is what an image's file holds, one file, as a publish.Input.
type Image struct {
	*Artefact
	FileName string // in the volume
}

// Scan implements publish.Input.
func (i Image) Scan(context.Context) (u volume.Usage, _ volume.Digest, _ error) {
	u.Add(volume.File, i.Plain, true)
	return u, i.fingerprint("image " + i.FileName), nil
}

// Walk implements volume.Source.
func (i Image) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	now := time.Now()
	if _, err := emit(volume.Entry{Attr: volume.Attr{Type: volume.Dir, Mode: 0o755, Mtime: now}}); err != nil {
		return err
	}
	_, err := emit(volume.Entry{
		Name: i.FileName, Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: now, Size: i.Plain, Nlink: 1},
		Open: func() (io.ReadCloser, error) { return i.Stream(ctx) },
	})
	return err
}
