// Package cosign checks the signatures that cosign makes of container images with a
// key pair, offline: no certificates, no transparency log.
//
// There are two forms, and both are looked for. The older, of before cosign 3, is a manifest with a
// tag made of the image's digest (sigstore/cosign, specs/SIGNATURE_SPEC.md):
//
//	REPOSITORY:sha256-HEX.sig
//	 '- layer, one a signature           application/vnd.dev.cosign.simplesigning.v1+json
//	     |- blob: the payload            {"critical": {"image": {"docker-manifest-digest": "sha256:HEX"}, ...}}
//	     '- annotation                   dev.cosignproject.cosign/signature: base64 of the signature of the payload
//
// The newer is a bundle of Sigstore's, which refers to the image (specs/BUNDLE_SPEC.md there, and
// sigstore/protobuf-specs, protos/sigstore_bundle.proto):
//
//	referrers of sha256:HEX, or an index with the tag sha256-HEX
//	 '- manifest
//	     '- layer                        application/vnd.dev.sigstore.bundle.v0.3+json
//	         '- dsseEnvelope             signed: "DSSEv1", type, payload (secure-systems-lab/dsse, protocol.md)
//	             '- in-toto statement    subject sha256:HEX, predicate type https://sigstore.dev/cosign/sign/v1
//	            or messageSignature      signed: the image's manifest itself
//
// A signature counts for the digest that it covers, and nothing else: what it says of the image's name
// (docker-reference) is what the image was called when it was signed, and no statement about
// where it lies today; cosign does not check it, either. Statements of other types by the same key (an
// SBOM, the finding of a scanner) say something about an image, and are no approval.
package cosign

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ErrUnsigned says that no signature of the key's covers the image.
var ErrUnsigned = fault.Sentinel(fault.Integrity, "no signature by the given key")

// Store is what lies beside an image.
type Store interface {
	// Signatures returns the manifests that may hold signatures of the manifest or index with that
	// digest: none is no error.
	Signatures(ctx context.Context, digest string) ([]*v1.Manifest, error)
	// Blob returns the blob d, checked against its digest.
	Blob(ctx context.Context, d v1.Descriptor) ([]byte, error)
}

// Subject is what may be signed: an image's manifest, or an index that lists it.
type Subject struct {
	Digest string // "sha256:..."
	Raw    []byte // the document
}

// Found is a signature that counts.
type Found struct {
	Digest string // of the subject that it covers
	Form   Form
	Name   string // what the image was called when it was signed; "" if that is not said
}

// Form is how a signature is kept.
type Form string

// The forms.
const (
	Tag    Form = "tag"
	Bundle Form = "bundle"
)

// Bounds of what one image may have beside it.
const (
	maxManifests = 200
	maxLayers    = 100
	maxBlob      = 4 << 20
)

// Media types of layers that hold signatures, and where the older form has its own.
const (
	simpleType = "application/vnd.dev.cosign.simplesigning.v1+json"
	bundleType = "application/vnd.dev.sigstore.bundle"
	annotation = "dev.cosignproject.cosign/signature"
)

// Verify looks for a signature of one of the subjects by key, and returns the first that counts. The error wraps
// ErrUnsigned where there is none, and says what was found instead.
func Verify(ctx context.Context, store Store, key *Key, subjects ...Subject) (Found, error) {
	var refused []error
	for _, s := range subjects {
		manifests, err := store.Signatures(ctx, s.Digest)
		if err != nil {
			return Found{}, fmt.Errorf("look for signatures of %s: %w", s.Digest, err)
		}
		for _, m := range manifests[:min(len(manifests), maxManifests)] {
			for _, d := range m.Layers[:min(len(m.Layers), maxLayers)] {
				f, err := one(ctx, store, key, s, d)
				switch {
				case errors.Is(err, errNone):
				case err == nil:
					return f, nil
				case ctx.Err() != nil:
					return Found{}, err
				default:
					refused = append(refused, err)
				}
			}
		}
	}
	return Found{}, unsigned(refused)
}

// errNone says that something is not a signature at all.
var errNone = errors.New("not a signature")

// one checks one layer of a manifest that lies beside the image.
func one(ctx context.Context, store Store, key *Key, s Subject, d v1.Descriptor) (Found, error) {
	form := Tag
	switch {
	case strings.HasPrefix(string(d.MediaType), bundleType):
		form = Bundle
	case string(d.MediaType) != simpleType:
		return Found{}, errNone
	}
	if d.Size > maxBlob {
		return Found{}, fmt.Errorf("it has %s", text.Size(d.Size))
	}
	blob, err := store.Blob(ctx, d)
	if err != nil {
		return Found{}, err
	}
	if form == Bundle {
		return Found{Digest: s.Digest, Form: form}, key.bundle(blob, s)
	}
	name, err := key.simple(blob, d.Annotations[annotation], s.Digest)
	return Found{Digest: s.Digest, Form: form, Name: name}, err
}

// unsigned says what was found instead of a signature that counts.
func unsigned(refused []error) error {
	const hint = "ask whoever gave out the key which image it signs; cosign sign --key cosign.key IMAGE signs one"
	if len(refused) == 0 {
		return fault.New(fault.Integrity, fmt.Errorf("%w: none lies beside the image", ErrUnsigned), hint)
	}
	why := refused[0] // the one that says most: what the key has signed comes before what it has not
	for _, err := range refused {
		if !errors.Is(err, errSignature) {
			why = err
		}
	}
	return fault.New(fault.Integrity, fmt.Errorf("%w: of %d beside the image, none counts: %.300s", ErrUnsigned,
		len(refused), text.Printable(why.Error())), hint)
}

// decode reads base64 as cosign and protobuf's JSON write it.
func decode(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("its signature is not base64")
	}
	return b, nil
}
