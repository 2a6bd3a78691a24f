package keyapi

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

func sampleClaim() Claim {
	return Claim{Manifest: manifest.Digest(bytes.Repeat([]byte{0xab}, 32)),
		Job: manifest.Job{Cluster: "puhti", ID: 12, ArrayTask: -1, Restart: 1}, Node: "cn1",
		Nonce: bytes.Repeat([]byte{1}, NonceSize), E: bytes.Repeat([]byte{2}, PublicKeyE), S: bytes.Repeat([]byte{3}, ed25519.PublicKeySize)}
}

// claimVector is ClaimDigest("svc", sampleClaim()), computed by Python's hashlib.
const claimVector = "a1ca00896c18185c4c580001642527d7858a55daeca43a8ff64f9fbf19dc00e8"

// TestClaimDigestVector pins the encoding: nodes, verifiers and services of
// different versions must agree on it.
func TestClaimDigestVector(t *testing.T) {
	t.Parallel()
	d := ClaimDigest("svc", sampleClaim())
	if got := hex.EncodeToString(d[:]); got != claimVector {
		t.Errorf("digest %s, want %s", got, claimVector)
	}
}

func TestClaimDigestCoversEveryField(t *testing.T) {
	t.Parallel()
	c := sampleClaim()
	seen := map[[32]byte]string{ClaimDigest("svc", c): "the claim itself", ClaimDigest("other", c): "service"}
	if len(seen) != 2 {
		t.Fatal("the service is not covered")
	}
	for _, index := range claimFields(t, reflect.TypeFor[Claim](), nil) {
		altered := sampleClaim()
		f := reflect.ValueOf(&altered).Elem().FieldByIndex(index)
		switch f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "1")
		case reflect.Int64:
			f.SetInt(f.Int() + 1)
		case reflect.Uint32:
			f.SetUint(f.Uint() + 1)
		case reflect.Slice:
			f.SetBytes(append(f.Bytes(), '1'))
		case reflect.Array:
			f.Index(0).SetUint(f.Index(0).Uint() ^ 1)
		default:
			t.Fatalf("field of kind %s", f.Kind())
		}
		name := fmt.Sprint(reflect.TypeFor[Claim]().FieldByIndex(index).Name, index)
		d := ClaimDigest("svc", altered)
		if was, ok := seen[d]; ok {
			t.Errorf("a claim with another %s has the digest of %s", name, was)
		}
		seen[d] = name
	}
}

// claimFields returns the index of every field of t, those of its structs included.
func claimFields(t *testing.T, of reflect.Type, at []int) (all [][]int) {
	t.Helper()
	for i := range of.NumField() {
		index := append(slices.Clone(at), i)
		if f := of.Field(i).Type; f.Kind() == reflect.Struct {
			all = append(all, claimFields(t, f, index)...)
		} else {
			all = append(all, index)
		}
	}
	return all
}

func TestClaimDigestHasNoShiftedFields(t *testing.T) {
	t.Parallel()
	a, b := sampleClaim(), sampleClaim()
	a.Job.Cluster, a.Job.ID = "puhti1", 2
	b.Job.Cluster, b.Job.ID = "puhti", 12
	if ClaimDigest("svc", a) == ClaimDigest("svc", b) {
		t.Error("bytes moved from one field to the next are not noticed")
	}
}

func TestClaimValidate(t *testing.T) {
	t.Parallel()
	if err := sampleClaim().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Claim){
		"no manifest": func(c *Claim) { c.Manifest = manifest.Digest{} },
		"no cluster":  func(c *Claim) { c.Job.Cluster = "" }, "cluster with slash": func(c *Claim) { c.Job.Cluster = "a/b" },
		"no node": func(c *Claim) { c.Node = "" }, "list of nodes": func(c *Claim) { c.Node = "cn[1-2]" },
		"node with newline": func(c *Claim) { c.Node = "cn1\n" },
		"no job":            func(c *Claim) { c.Job.ID = 0 }, "array task -2": func(c *Claim) { c.Job.ArrayTask = -2 },
		"short nonce": func(c *Claim) { c.Nonce = c.Nonce[1:] }, "short E": func(c *Claim) { c.E = c.E[1:] },
		"long S": func(c *Claim) { c.S = append(c.S, 0) },
	} {
		c := sampleClaim()
		change(&c)
		if err := c.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSigningInput(t *testing.T) {
	t.Parallel()
	base := []any{"svc", "PUT", "/v1/secrets/1?x", manifest.DigestOf([]byte("body")), int64(5), "00ff"}
	input := func(a []any) string {
		return string(SigningInput(a[0].(string), a[1].(string), a[2].(string), a[3].(manifest.Digest), a[4].(int64), a[5].(string)))
	}
	const want = "sealbatch-request v1\nsvc\nPUT\n/v1/secrets/1?x\n230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5\n5\n00ff\n"
	if got := input(base); got != want {
		t.Errorf("input %q, want %q", got, want)
	}
	for i, other := range []any{"s", "GET", "/v1", manifest.DigestOf([]byte("b")), int64(6), "00fe"} {
		a := append([]any{}, base...)
		a[i] = other
		if input(a) == want {
			t.Errorf("field %d is not covered", i)
		}
	}
}

func TestContentDigest(t *testing.T) {
	t.Parallel()
	d := manifest.DigestOf([]byte(`{"hello": "world"}`))
	const want = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:" // of RFC 9530, appendix B
	if got := ContentDigest(d); got != want {
		t.Errorf("written as %q, want %q", got, want)
	}
	if got, err := ParseContentDigest([]string{want}); err != nil || got != d {
		t.Errorf("read as %v, %v", got, err)
	}
	for _, bad := range [][]string{
		nil, {}, {""}, {want, want}, {want + ", " + want}, {want + ";q=1"}, {" " + want}, {want + "\n"}, {want[:len(want)-1]},
		{strings.ToUpper(want)}, {"sha-256=:=:"}, {"sha-256=::"}, {"sha-256=:"}, {"sha-512" + want[len("sha-256"):]},
		{strings.Replace(want, "E=:", "F=:", 1)},     // bits that belong to no byte
		{strings.Replace(want, "E=:", "E:", 1)},      // no padding
		{strings.Replace(want, "=:X4", "=:\nX4", 1)}, // base64 decoders pass over newlines
		{"sha-256=:AAAA:"}, {strings.Replace(want, "=:X48E", "=:X48EX48E", 1)},
	} {
		if got, err := ParseContentDigest(bad); !errors.Is(err, ErrInvalid) || !got.IsZero() {
			t.Errorf("%q is read as %v, %v", bad, got, err)
		}
	}
}

func FuzzContentDigest(f *testing.F) {
	f.Add(ContentDigest(manifest.DigestOf(nil)))
	f.Add("sha-256=:AAAA:, sha-512=:AA==:")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseContentDigest([]string{text})
		if err == nil && ContentDigest(d) != text {
			t.Errorf("%q is read as %v, which is written otherwise", text, d)
		}
	})
}

func TestBundle(t *testing.T) {
	t.Parallel()
	newKey := func() hpke.PrivateKey {
		k, err := hpke.MLKEM768X25519().GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	key := newKey()
	c := sampleClaim()
	c.E = key.PublicKey().Bytes()
	if len(c.E) != PublicKeyE {
		t.Fatalf("a public key has %d bytes, PublicKeyE is %d", len(c.E), PublicKeyE)
	}
	b := Bundle{Keys: []BundleKey{{VolumeID: "v", Digest: manifest.DigestOf([]byte("d")), Key: bytes.Repeat([]byte{9}, 32)}}}
	sealed, err := SealBundle("svc", c, b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenBundle(key, "svc", c, sealed); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("opened %+v, %v", got, err)
	}
	otherClaim := c
	otherClaim.Node = "cn2"
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, open := range map[string]func() (Bundle, error){
		"another key":     func() (Bundle, error) { return OpenBundle(newKey(), "svc", c, sealed) },
		"another claim":   func() (Bundle, error) { return OpenBundle(key, "svc", otherClaim, sealed) },
		"another service": func() (Bundle, error) { return OpenBundle(key, "other", c, sealed) },
		"a flipped bit":   func() (Bundle, error) { return OpenBundle(key, "svc", c, flipped) },
		"a cut":           func() (Bundle, error) { return OpenBundle(key, "svc", c, sealed[:100]) },
		"nothing":         func() (Bundle, error) { return OpenBundle(key, "svc", c, nil) },
	} {
		if got, err := open(); !errors.Is(err, ErrBundle) || got.Keys != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	c.E = bytes.Repeat([]byte{0xff}, PublicKeyE)
	if _, err := SealBundle("svc", c, b); !errors.Is(err, ErrInvalid) {
		t.Errorf("sealed to no key: %v", err)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("A", 42) + "E"
	keys, err := DeriveToken(token)
	if err != nil {
		t.Fatal(err)
	}
	c := sampleClaim()
	ev, err := TokenEvidence(token+"\n", "svc", c) // as read from a file
	var p TokenPayload
	if err != nil || ev.Decode(EvidenceToken, &p) != nil || strings.Contains(string(ev.Payload), token) {
		t.Fatalf("evidence %+v, %v", ev, err)
	}
	if !keys.Check(p.Proof, "svc", c) {
		t.Error("genuine proof is refused")
	}
	other := c
	other.E = bytes.Repeat([]byte{7}, PublicKeyE)
	if keys.Check(p.Proof, "svc", other) || keys.Check(p.Proof, "other", c) || keys.Check("", "svc", c) || keys.Check(p.Proof+"A", "svc", c) {
		t.Error("a proof holds for another claim or service, or altered")
	}
	for _, bad := range []string{"", token[1:], token + "A", strings.Repeat("!", 43), fmt.Sprintf("%x", token)} {
		if _, err := DeriveToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("%q is taken for a token: %v", bad, err)
		}
	}
}

func TestServiceID(t *testing.T) {
	t.Parallel()
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	id := ServiceID("keys.example.org", key)
	if !ServiceKeyMatches(id, key) {
		t.Errorf("%s does not match its own key", id)
	}
	for name, bad := range map[string]bool{
		"another key": ServiceKeyMatches(id, other), "a short key": ServiceKeyMatches(id, key[1:]),
		"no hash": ServiceKeyMatches("keys.example.org", key), "a cut": ServiceKeyMatches(id[:len(id)-1], key),
		"nothing": ServiceKeyMatches("", key),
	} {
		if bad {
			t.Errorf("%s is taken for the service", name)
		}
	}
}

func FuzzDecodeRelease(f *testing.F) {
	f.Add([]byte(`{"claim":{"manifest":"sha256:` + strings.Repeat("ab", 32) + `","job":{"id":1}},"evidence":{"type":"token"},"proof":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Release
		if manifest.DecodeJSON(b, &r) != nil {
			return
		}
		if r.Claim.Validate() == nil && (len(r.Claim.Nonce) != NonceSize || strings.ContainsAny(r.Claim.Node+r.Claim.Job.Cluster, "\n/ []")) {
			t.Errorf("valid claim %+v", r.Claim)
		}
	})
}
