// Package layers merges the layers of a container image, OCI's or Docker's, into one tree of
// squashfs.Node, in two readings that hold no content in memory:
//
//	Merge      layer 1 (lowest)   blob -> digest -> inflate -> diff id -> tar -> tree
//	           layer 2                                                   -> over it
//	           ...
//	Contents   layer 1            blob -> digest -> inflate -> diff id -> tar -> content of each live file
//	           layer 2                                                           ...
//
// What the layers mean is the image specification's layer.md; where that is silent, what umoci does, with which
// Apptainer unpacks images (docs/images.md, "From layers to a tree"). Layers are hostile input: all that they can make
// large is bounded (Limits), names never lead out of the image, and none of them touches a file system.
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
