// Package layers merges the layers of a container image into one tree.
package layers

import (
	"context"
	"io"
)

// Layer is one layer of an image: a tar, compressed or not.
type Layer struct {
	Digest    string // of the blob as stored: "sha256:..."; "" if nothing says it, as in archives of docker save
	DiffID    string // of the uncompressed tar: "sha256:..."
	MediaType string // "" : told by content
	Size      int64  // of the blob, in bytes; -1 if unknown
	// Open returns the blob as stored. It can be called again, and several can be open.
	Open func(ctx context.Context) (io.ReadCloser, error)
}
