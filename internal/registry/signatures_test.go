package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	server "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/cosign"
	"github.com/sealbatch/sealbatch/internal/fault"
)

// signer signs as cosign does with a key pair.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func (s signer) public(t *testing.T) *cosign.Key {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	k, err := cosign.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (s signer) sign(message string) string {
	sum := sha256.Sum256([]byte(message))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// tag signs in the older form, as a manifest under a tag.
func (s signer) tag(t *testing.T, repo, digest string) {
	t.Helper()
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"lab.example/tool"},"image":{"docker-manifest-digest":"%s"},`+
		`"type":"cosign container image signature"},"optional":null}`, digest)
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer([]byte(payload), "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": s.sign(payload)},
	})
	if err != nil {
		t.Fatal(err)
	}
	push(t, repo+":"+strings.Replace(digest, ":", "-", 1)+".sig", img)
}

// refer signs in the newer form, as a bundle that refers to the image.
func (s signer) refer(t *testing.T, repo, digest string) {
	t.Helper()
	payload := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],`+
		`"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`,
		strings.TrimPrefix(digest, "sha256:"))
	const inToto = "application/vnd.in-toto+json"
	b, err := json.Marshal(map[string]any{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
		"dsseEnvelope": map[string]any{"payload": []byte(payload), "payloadType": inToto,
			"signatures": []any{map[string]any{"sig": s.sign(fmt.Sprintf("DSSEv1 %d %s %d %s", len(inToto), inToto,
				len(payload), payload))}}}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	r, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
	m := raw{SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1), ArtifactType: kind,
		Subject: v1.Descriptor{Digest: h, MediaType: types.OCIManifestSchema1, Size: 1}}
	var blobs []v1.Descriptor
	for _, l := range []v1.Layer{static.NewLayer([]byte("{}"), types.OCIEmptyJSON), static.NewLayer(b, kind)} {
		d, err := partial.Descriptor(l)
		if err := errors.Join(err, remote.WriteLayer(r, l)); err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, *d)
	}
	m.Config, m.Layers = blobs[0], blobs[1:]
	b, _ = m.RawManifest()
	if err := remote.Put(r.Digest(digestOf(b)), m); err != nil { // keeps the index under a tag itself where there is no list
		t.Fatal(err)
	}
}

// raw is a manifest as the library does not write it.
type raw struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	ArtifactType  string          `json:"artifactType"`
	Config        v1.Descriptor   `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Subject       v1.Descriptor   `json:"subject"`
}

func (r raw) RawManifest() ([]byte, error) { return json.Marshal(r) }

// TestVerifySignature: both forms, of the image and of an index that lists it, in registries with and without a
// list of referrers; not by another key, and not one that covers another image.
func TestVerifySignature(t *testing.T) {
	t.Parallel()
	for _, lists := range []bool{true, false} {
		s := httptest.NewServer(server.New(server.Logger(quiet), server.WithReferrersSupport(lists)))
		defer s.Close()
		repo := host(s) + "/lab/tool"
		mine, other := newSigner(t), newSigner(t)
		image := func(tag string) string { return push(t, repo+":"+tag, picture(t, 1, 1000)) }
		index := func(tag string) (whole, single string) {
			img := picture(t, 1, 1000)
			h, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			idx := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
				mutate.IndexAddendum{
					Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
				})
			return push(t, repo+":"+tag, idx), h.String()
		}
		bare := image("bare")
		mine.tag(t, repo, image("tag"))
		mine.refer(t, repo, image("bundle"))
		mine.tag(t, repo, bare)
		whole, _ := index("index")
		mine.refer(t, repo, whole)
		_, single := index("single")
		mine.tag(t, repo, single)
		foreign := image("other")
		other.tag(t, repo, foreign)
		other.refer(t, repo, foreign)
		both := image("both")
		other.refer(t, repo, both)
		mine.refer(t, repo, both)
		image("unsigned")
		for tag, c := range map[string]struct {
			form cosign.Form
			says string
		}{
			"tag": {cosign.Tag, ""}, "bundle": {cosign.Bundle, ""}, "index": {cosign.Bundle, ""},
			"single": {cosign.Tag, ""}, "both": {cosign.Bundle, ""},
			"other": {"", "of 2 beside the image, none counts"}, "unsigned": {"", "none lies beside the image"},
		} {
			r := open(t, repo+":"+tag, options(t))
			f, err := r.VerifySignature(t.Context(), mine.public(t))
			switch {
			case c.says != "":
				if check(t, err, fault.Integrity, c.says); !errors.Is(err, cosign.ErrUnsigned) {
					t.Errorf("%s: %v", tag, err)
				}
			case err != nil || f.Form != c.form || (tag == "index") != (f.Digest == whole) ||
				(tag == "single") != (f.Digest == single):
				t.Errorf("%s (lists: %v): %+v, %v", tag, lists, f, err)
			}
		}
	}
}

// TestSignaturesOutOfReach: a registry that does not answer for signatures is no registry without them.
func TestSignaturesOutOfReach(t *testing.T) {
	t.Parallel()
	s := start(t, faulty(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.Contains(req.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, req)
	}).wrap)
	push(t, host(s)+"/lab/tool", picture(t, 1, 1000))
	_, err := open(t, host(s)+"/lab/tool", options(t)).VerifySignature(t.Context(), newSigner(t).public(t))
	if check(t, err, fault.Other, "look for signatures of"); errors.Is(err, cosign.ErrUnsigned) {
		t.Errorf("%v", err)
	}
}
