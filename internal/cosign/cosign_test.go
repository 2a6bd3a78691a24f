package cosign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// public returns a key's PEM.
func public(t *testing.T, k crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// pair is a key pair, which signs as cosign does.
type pair struct {
	*Key
	sign func(message []byte) []byte
}

// pairs returns one of each kind.
func pairs(t *testing.T) map[string]pair {
	t.Helper()
	out := map[string]pair{}
	add := func(name string, k crypto.Signer, hash func([]byte) ([]byte, crypto.SignerOpts)) {
		key, err := ParseKey(public(t, k.Public()))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = pair{key, func(message []byte) []byte {
			sum, o := hash(message)
			sig, err := k.Sign(rand.Reader, sum, o)
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}}
	}
	sha2 := func(m []byte) ([]byte, crypto.SignerOpts) { s := sha256.Sum256(m); return s[:], crypto.SHA256 }
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("P-256", p256, sha2)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("P-384", p384, func(m []byte) ([]byte, crypto.SignerOpts) {
		s := sha512.Sum384(m)
		return s[:],
			crypto.SHA384
	})
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	add("RSA", r, sha2)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("Ed25519", ed, func(m []byte) ([]byte, crypto.SignerOpts) { return m, crypto.Hash(0) })
	add("Ed25519ph", ed, func(m []byte) ([]byte, crypto.SignerOpts) {
		s := sha512.Sum512(m)
		return s[:],
			crypto.SHA512
	})
	return out
}

var image = Subject{Raw: []byte(`{"schemaVersion": 2}`)}

func init() { image.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256(image.Raw)) }

func simpleOf(digest, kind string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"lab/tool"},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, digest, kind)
}

func statementOf(digest, kind, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":%q,"subject":[{"digest":{"sha512":"x"}},{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		kind, strings.TrimPrefix(digest, "sha256:"), predicate)
}

const statementV1 = "https://in-toto.io/Statement/v1"

// bundleOf wraps a statement that p signs.
func (p pair) bundleOf(payload []byte, kind string, signatures int) []byte {
	sig := p.sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload))
	var sigs []any
	for range signatures {
		sigs = append(sigs, map[string]any{"sig": sig})
	}
	b, _ := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "x"}},
		"dsseEnvelope":         map[string]any{"payload": payload, "payloadType": kind, "signatures": sigs},
	})
	return b
}

// shelf is a store of one manifest.
type shelf struct {
	m     v1.Manifest
	blobs map[v1.Hash][]byte
	err   error
}

func (s *shelf) put(media string, blob, sig []byte) {
	h, n, _ := v1.SHA256(strings.NewReader(string(blob)))
	if s.blobs == nil {
		s.blobs = map[v1.Hash][]byte{}
	}
	s.blobs[h] = blob
	s.m.Layers = append(s.m.Layers, v1.Descriptor{MediaType: types.MediaType(media), Digest: h, Size: n,
		Annotations: map[string]string{annotation: base64.StdEncoding.EncodeToString(sig)}})
}

func (s *shelf) Signatures(context.Context, string) ([]*v1.Manifest, error) {
	return []*v1.Manifest{&s.m}, s.err
}

func (s *shelf) Blob(_ context.Context, d v1.Descriptor) ([]byte, error) {
	return s.blobs[d.Digest], nil
}

// TestForms: what each kind of key signs in each form counts, and nothing that is only near it.
func TestForms(t *testing.T) {
	t.Parallel()
	all := pairs(t)
	other := strings.Replace(image.Digest, image.Digest[7:9], "00", 1)
	for name, p := range all {
		stranger := all["P-256"]
		if name == "P-256" {
			stranger = all["RSA"]
		}
		message := func(sig []byte) []byte {
			b, _ := json.Marshal(map[string]any{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
				"messageSignature": map[string]any{
					"messageDigest": map[string]any{"algorithm": "SHA2_256"}, "signature": sig}})
			return b
		}
		good := simpleOf(image.Digest, payloadType)
		in := func(payload, predicate string) []byte {
			return p.bundleOf(statementOf(payload, statementV1, predicate), inToto, 1)
		}
		for what, c := range map[string]struct {
			media     string
			blob, sig []byte
			says      string // "" where it counts
		}{
			"tag":                  {simpleType, good, p.sign(good), ""},
			"tag, another's":       {simpleType, good, stranger.sign(good), "none counts: not signed by the key"},
			"tag, another payload": {simpleType, append(good, ' '), p.sign(good), "not signed by the key"},
			"tag, another image": {simpleType, simpleOf(other, payloadType), p.sign(simpleOf(other, payloadType)),
				"another image is signed, sha256:00"},
			"tag, another type": {simpleType, simpleOf(image.Digest, "atomic container signature"),
				p.sign(simpleOf(image.Digest, "atomic container signature")), "no statement about an image"},
			"tag, no JSON":      {simpleType, []byte("{"), p.sign([]byte("{")), "cannot be read"},
			"tag, no signature": {simpleType, good, nil, "none lies beside"},
			"an SBOM":           {"text/spdx+json", good, p.sign(good), "none lies beside"},
			"bundle":            {bundleType + ".v0.3+json", in(image.Digest, signature), nil, ""},
			"bundle of old":     {bundleType + "+json;version=0.2", in(image.Digest, signature), nil, ""},
			"bundle, another's": {bundleType, stranger.bundleOf(statementOf(image.Digest, statementV1,
				signature), inToto, 1), nil, "not signed by the key"},
			"bundle, another image": {bundleType, in(other, signature), nil, "another image is signed"},
			"bundle of a scanner": {bundleType, in(image.Digest,
				"https://cosign.sigstore.dev/attestation/vuln/v1"), nil, "approves nothing"},
			"bundle, no statement": {bundleType, p.bundleOf(statementOf(image.Digest, "x", signature), inToto, 1),
				nil, "approves nothing"},
			"bundle, another type": {bundleType, p.bundleOf(statementOf(image.Digest, statementV1, signature),
				"text/plain", 1), nil, "no statement about an image"},
			"bundle, two signatures": {bundleType, p.bundleOf(statementOf(image.Digest, statementV1, signature),
				inToto, 2), nil, "2 signatures"},
			"bundle, no signature": {bundleType, p.bundleOf(statementOf(image.Digest, statementV1, signature),
				inToto, 0), nil, "0 signatures"},
			"bundle, empty":         {bundleType, []byte(`{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}`), nil, "has not one signature"},
			"bundle of what":        {bundleType, []byte(`{}`), nil, "unknown type"},
			"bundle, no JSON":       {bundleType, []byte(`]`), nil, "cannot be read"},
			"message":               {bundleType, message(p.sign(image.Raw)), nil, ""},
			"message, another":      {bundleType, message(p.sign([]byte("x"))), nil, "not signed by the key"},
			"message, no signature": {bundleType, message(nil), nil, "not signed by the key"},
		} {
			var s shelf
			s.put("application/vnd.oci.image.layer.v1.tar", []byte("beside it"), nil)
			s.put(c.media, c.blob, c.sig)
			f, err := Verify(t.Context(), &s, p.Key, image)
			if c.says == "" {
				if err != nil || f.Digest != image.Digest || (f.Form == Tag) != (c.media == simpleType) ||
					(f.Form == Tag) != (f.Name == "lab/tool") {
					t.Errorf("%s, %s: %+v, %v", name, what, f, err)
				}
				continue
			}
			if !errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), c.says) ||
				fault.ClassOf(err) != fault.Integrity || fault.Hint(err) == "" {
				t.Errorf("%s, %s: %+v, %v", name, what, f, err)
			}
		}
	}
}

// TestVectors: what cosign's own code signed (testdata/README.md).
func TestVectors(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Name, Key, Payload, Signature, Bundle string }
	if err := json.Unmarshal(b, &vectors); err != nil || len(vectors) < 5 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	const digest = "sha256:97fc222cee7991b5b061d4d4afdb5f3428fcb0c9054e1690313786befa1e4e36"
	for i, v := range vectors {
		k, err := ParseKey([]byte(v.Key))
		if err != nil {
			t.Fatal(v.Name, err)
		}
		if name, err := k.simple([]byte(v.Payload), v.Signature, digest); err != nil ||
			name != "registry.example/lab/tool" {
			t.Errorf("%s, tag: %s, %v", v.Name, name, err)
		}
		if err := k.bundle([]byte(v.Bundle), Subject{Digest: digest}); err != nil {
			t.Errorf("%s, bundle: %v", v.Name, err)
		}
		next := vectors[(i+1)%len(vectors)]
		if err := k.bundle([]byte(next.Bundle), Subject{Digest: digest}); !errors.Is(err, errSignature) {
			t.Errorf("%s, the bundle of %s: %v", v.Name, next.Name, err)
		}
		if _, err := k.simple([]byte(v.Payload), next.Signature, digest); !errors.Is(err, errSignature) {
			t.Errorf("%s, the signature of %s: %v", v.Name, next.Name, err)
		}
	}
}

// TestVerifyLooksOn: one that does not count hides none that does, and a store that fails is no image without signatures.
func TestVerifyLooksOn(t *testing.T) {
	t.Parallel()
	all := pairs(t)
	good := simpleOf(image.Digest, payloadType)
	var s shelf
	s.put(bundleType, []byte("]"), nil)
	s.put(simpleType, good, all["RSA"].sign(good))
	s.put(simpleType, good, all["P-256"].sign(good))
	if f, err := Verify(t.Context(), &s, all["P-256"].Key, Subject{Digest: "sha256:another"}, image); err != nil ||
		f.Digest != image.Digest {
		t.Errorf("%+v, %v", f, err)
	}
	s.err = errors.New("the line broke")
	if _, err := Verify(t.Context(), &s, all["P-256"].Key, image); !errors.Is(err, s.err) ||
		errors.Is(err, ErrUnsigned) {
		t.Errorf("%v", err)
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := public(t, p256.Public())
	for name, c := range map[string]struct{ pem, says string }{
		"nothing":      {"", "holds no PEM"},
		"an age key":   {"age1qqq", "holds no PEM"},
		"private":      {"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "private key"},
		"certificate":  {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate"},
		"damaged":      {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"},
		"weak curve":   {string(public(t, p224.Public())), "curve P-224"},
		"two keys":     {string(good) + string(good), "something follows"},
		"text behind":  {string(good) + "x", "something follows"},
		"lines behind": {string(good) + "\n\n", ""},
	} {
		_, err := ParseKey([]byte(c.pem))
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.says) || fault.Hint(err) == "" ||
			fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/cosign.pub", good, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(dir + "/cosign.pub"); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(dir+"/cosign.pub", 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir + "/cosign.pub", dir + "/none"} { // one that others can write, and none
		if _, err := ReadKey(path); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// FuzzForms: nothing that nobody has signed counts, whatever it looks like.
func FuzzForms(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	k := &Key{public: key.Public()}
	f.Add(simpleOf(image.Digest, payloadType), "MEUCIQ==")
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`), "")
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{"signature":"AAAA"}}`), "")
	f.Fuzz(func(t *testing.T, blob []byte, sig string) {
		if k.bundle(blob, image) == nil {
			t.Errorf("a bundle counts: %q", blob)
		}
		if _, err := k.simple(blob, sig, image.Digest); err == nil {
			t.Errorf("a signature counts: %q of %q", sig, blob)
		}
	})
}

// TestFingerprint: that of a key is what openssl prints, in whatever form the key comes.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	for _, b := range [][]byte{old, public(t, key.Public())} {
		k, err := ParseKey(b)
		if err != nil || k.Fingerprint() != sha256.Sum256(der) {
			t.Errorf("%s: %v", b, err)
		}
	}
}
