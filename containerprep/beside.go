package containerprep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/publish"
	"github.com/sealbatch/sealbatch/internal/sbom"
	"github.com/sealbatch/sealbatch/volume"
)

// beside is an image with its bill of materials in the same directory.
type beside struct {
	publish.Input
	file *sbom.File
}

func (b beside) digest() manifest.Digest { return manifest.DigestOf(b.file.Content) }

// Files returns what the image is read from.
func (b beside) Files() []string {
	if f, ok := b.Input.(interface{ Files() []string }); ok {
		return f.Files()
	}
	return nil
}

// ChangedSince returns what changed of what the image is read from.
func (b beside) ChangedSince(ctx context.Context, since time.Time) string {
	if f, ok := b.Input.(interface {
		ChangedSince(context.Context, time.Time) string
	}); ok {
		return f.ChangedSince(ctx, since)
	}
	return ""
}

// Scan adds the file to what there is of the image. Of an image that cannot be compared the two cannot, either.
func (b beside) Scan(ctx context.Context) (volume.Usage, volume.Digest, error) {
	u, fingerprint, err := b.Input.Scan(ctx)
	if err != nil {
		return u, fingerprint, err
	}
	u.Add(volume.File, int64(len(b.file.Content)), true)
	if fingerprint == (volume.Digest{}) {
		return u, fingerprint, nil
	}
	return u, sha256.Sum256(fmt.Appendf(nil, "%s\n%q %s", fingerprint, b.file.Name, b.digest())), nil
}

// Walk emits the image, and the file in its top directory.
func (b beside) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	if err := b.Input.Walk(ctx, emit); err != nil {
		return err
	}
	_, err := emit(volume.Entry{
		Name: b.file.Name,
		Attr: volume.Attr{Type: volume.File, Mode: 0o644, Mtime: b.file.Mtime, Size: int64(len(b.file.Content)), Nlink: 1},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.file.Content)), nil },
	})
	return err
}
