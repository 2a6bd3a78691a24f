package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/cosign"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/oci"
)

// VerifySignature looks beside the image for a signature by key, of what the reference stood for (an index
// perhaps, which lists the image by its digest) or of the image's own manifest. The error wraps
// cosign.ErrUnsigned where none counts.
func (r *Remote) VerifySignature(ctx context.Context, key *cosign.Key) (cosign.Found, error) {
	subjects := []cosign.Subject{{Digest: r.Resolved, Raw: r.root.raw}}
	if r.Digest != r.Resolved {
		subjects = append(subjects, cosign.Subject{Digest: r.Digest, Raw: r.RawManifest})
	}
	f, err := cosign.Verify(ctx, beside{r}, key, subjects...)
	if err != nil {
		return f, fmt.Errorf("image %s: %w", r.Reference, err)
	}
	return f, nil
}

// beside is what registries keep beside an image.
type beside struct{ r *Remote }

// Blob implements cosign.Store.
func (b beside) Blob(ctx context.Context, d v1.Descriptor) ([]byte, error) { return b.r.small(ctx, d) }

// Signatures implements cosign.Store: of the tag of cosign's own, and of what refers to the digest. A mirror may
// lack both, and so all places are asked.
func (b beside) Signatures(ctx context.Context, digest string) (all []*v1.Manifest, err error) {
	for _, s := range b.r.sources {
		var found []*v1.Manifest
		found, err = b.at(ctx, s, digest)
		all = append(all, found...)
		if err = s.inWords(err); err != nil && s.mirror {
			b.r.o.Log.Info("a mirror was not asked for signatures", "mirror", s.host(), "error", err)
		}
	}
	if len(all) > 0 && ctx.Err() == nil {
		err = nil
	}
	return all, err
}

func (b beside) at(ctx context.Context, s *source, digest string) ([]*v1.Manifest, error) {
	tag := strings.Replace(digest, ":", "-", 1)
	names := []string{tag + ".sig"}
	refer, err := b.referrers(ctx, s, digest, tag)
	if err != nil {
		return nil, err
	}
	var all []*v1.Manifest
	for _, name := range append(names, refer...) {
		doc, err := b.optional(ctx, s, name)
		if err != nil {
			return all, err
		}
		if m, err := v1.ParseManifest(bytes.NewReader(doc.raw)); err == nil && len(doc.raw) > 0 {
			all = append(all, m)
		}
	}
	return all, nil
}

// optional fetches a manifest, which need not be there: then it is empty.
func (b beside) optional(ctx context.Context, s *source, identifier string) (doc document, err error) {
	err = b.r.patience(documentTries, "asking "+s.host()).Do(ctx, func() error {
		doc, err = s.manifest(ctx, identifier)
		return err
	})
	if e := status(err); e != nil && e.Code == http.StatusNotFound {
		return document{}, nil
	}
	return doc, err
}

// Artifact types of manifests that may hold signatures; those of no type are looked at, too.
var signatureTypes = []string{"", string(types.OCIEmptyJSON), "application/vnd.dev.cosign.artifact.sig.v1+json"}

// maxReferrers bounds how many manifests are fetched.
const maxReferrers = 100

// referrers returns the digests of manifests that refer to one, by the registry's list or, where it has none, the index
// that clients keep under a tag (distribution-spec, "Listing Referrers" and "Referrers Tag Schema").
func (b beside) referrers(ctx context.Context, s *source, digest, tag string) (digests []string, err error) {
	var raw []byte
	err = b.r.patience(documentTries, "asking "+s.host()).Do(ctx, func() error {
		raw, err = s.list(ctx, digest)
		return err
	})
	if e := status(err); errors.Is(err, errNoList) || (e != nil &&
		slices.Contains([]int{400, 404, 405, 406}, e.Code)) {
		var doc document
		doc, err = b.optional(ctx, s, tag)
		raw = doc.raw
	}
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("the list of what refers to %s cannot be read: %w", digest, err)
	}
	for _, d := range index.Manifests {
		wanted := strings.HasPrefix(d.ArtifactType, "application/vnd.dev.sigstore.bundle") ||
			slices.Contains(signatureTypes, d.ArtifactType)
		if wanted && isDigest(d.Digest.String()) && len(digests) < maxReferrers {
			digests = append(digests, d.Digest.String())
		}
	}
	return digests, nil
}

// errNoList says that a registry answers the question for a list by something else.
var errNoList = errors.New("no list of referrers")

// list asks for what refers to a digest.
func (s *source) list(ctx context.Context, digest string) ([]byte, error) {
	resp, err := s.get(ctx, "referrers/"+digest, "Accept", string(types.OCIImageIndex))
	if errors.Is(err, errWebPage) {
		return nil, errNoList
	} else if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), string(types.OCIImageIndex)) {
		return nil, errNoList
	}
	return fsx.ReadAll(resp.Body, oci.MaxManifest)
}
