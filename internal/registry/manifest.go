package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/oci"
	"github.com/sealbatch/sealbatch/internal/spool"
)

// document is a manifest or an index, whole.
type document struct {
	v1.Descriptor
	raw []byte
}

// acceptable are the documents that are asked for. Those of before 2017 (schema 1) are, so
// that they can be refused by name.
var acceptable = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1),
	string(types.DockerManifestSchema2),
	string(types.DockerManifestSchema1Signed) + ";q=0.1",
}, ",")

// Tries of one document, and of a layer without progress.
const (
	documentTries = 4
	layerTries    = 6
)

// manifest asks for a tag or a digest: the mirrors, and then the registry, whose answer is the last word.
func (r *Remote) manifest(ctx context.Context, identifier string) (document, error) {
	var doc document
	err := r.eachSource(ctx, func(s *source) error {
		return r.patience(documentTries, "asking "+s.host()).Do(ctx, func() (err error) {
			doc, err = s.manifest(ctx, identifier)
			return err
		})
	})
	return doc, err
}

// eachSource calls try for each place until one succeeds, and returns the error of
// the last one, in words.
func (r *Remote) eachSource(ctx context.Context, try func(*source) error) (err error) {
	for _, s := range r.sources {
		if s.failed.Load() {
			continue
		}
		err = try(s)
		if err == nil || ctx.Err() != nil || errors.Is(err, spool.ErrFull) || errors.Is(err, spool.ErrClosed) {
			return err
		}
		if err = s.inWords(err); s.mirror {
			s.failed.Store(true)
			r.o.Log.Info("a mirror does not have it, and is asked no more", "mirror", s.host(), "error", err)
		}
	}
	return err
}

// manifest fetches one document. What is asked for by digest is held against it.
func (s *source) manifest(ctx context.Context, identifier string) (document, error) {
	resp, err := s.get(ctx, "manifests/"+identifier, "Accept", acceptable)
	if err != nil {
		return document{}, err
	}
	defer resp.Body.Close()
	raw, err := fsx.ReadAll(resp.Body, oci.MaxManifest)
	if errors.Is(err, fsx.ErrTooLarge) {
		return document{}, errTooLong
	} else if err != nil {
		return document{}, err
	}
	sum := sha256.Sum256(raw)
	doc := document{raw: raw, Descriptor: v1.Descriptor{
		Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, Size: int64(len(raw)),
	}}
	if isDigest(identifier) && doc.Digest.String() != identifier {
		return document{}, fmt.Errorf("%w: a manifest of digest %s where %s was asked for", ErrBlob, doc.Digest,
			identifier)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
		doc.MediaType = types.MediaType(kind)
	}
	return doc, nil
}

// document is oci.Resolve's Fetch: a manifest or a config of at most limit bytes.
func (r *Remote) document(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Digest == r.root.Digest {
		return r.root.raw, nil
	}
	if d.MediaType.IsImage() || d.MediaType.IsIndex() || d.MediaType.IsSchema1() {
		doc, err := r.manifest(ctx, d.Digest.String())
		return doc.raw, err
	}
	if d.Size > limit {
		return nil, errTooLong
	}
	return r.small(ctx, d)
}
