package manifest

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func testKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

func testStatement() Statement {
	return Statement{Service: "keys", Manifest: digest(9), Job: Job{Cluster: "box", ID: 7, ArrayTask: -1},
		Node: "cn1", UID: 1000, User: "alice", Tier: TierB2, Attestor: "slurm", S: "key", Issued: testTime}
}

func TestJWSRoundTrip(t *testing.T) {
	t.Parallel()
	pub, priv := testKey(t)
	want := testStatement()
	s, err := SignJWS(TypeStatement, priv, want)
	if err != nil {
		t.Fatal(err)
	}
	var got Statement
	if err := VerifyJWS(TypeStatement, pub, s, &got); err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	other, _ := testKey(t)
	if err := VerifyJWS(TypeStatement, other, s, &got); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	want.Tier = 0
	if _, err := SignJWS(TypeStatement, priv, want); !errors.Is(err, ErrInvalid) {
		t.Errorf("a statement without a tier was signed: %v", err)
	}
}

// TestJWSTypes takes a document of each type for each other.
func TestJWSTypes(t *testing.T) {
	t.Parallel()
	pub, priv := testKey(t)
	types := []string{TypeStatement, TypeOrigin, TypeReceipt, TypeVoucher, TypeAuditHead, "", "JWT"}
	for _, made := range types {
		s, err := SignJWS(made, priv, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		for _, wanted := range types[:5] {
			err := VerifyJWS(wanted, pub, s, &struct{}{})
			if made == wanted && err != nil || made != wanted && !errors.Is(err, ErrSignature) {
				t.Errorf("%q taken for %q: %v", made, wanted, err)
			}
		}
	}
}

// compact makes a compact JWS of the parts; sign makes its signature.
func compact(header, payload string, sign func(input []byte) []byte) string {
	enc := base64.RawURLEncoding.EncodeToString
	input := enc([]byte(header)) + "." + enc([]byte(payload))
	return input + "." + enc(sign([]byte(input)))
}

func TestJWSRefuses(t *testing.T) {
	t.Parallel()
	pub, priv := testKey(t)
	sign := func(in []byte) []byte { return ed25519.Sign(priv, in) }
	none := func([]byte) []byte { return nil }
	// HMAC keyed with the public key, the classic confusion.
	hs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(pub)},
		(&jose.SignerOptions{}).WithType(TypeStatement))
	if err != nil {
		t.Fatal(err)
	}
	o, err := hs.Sign([]byte(`{"service":"keys"}`))
	if err != nil {
		t.Fatal(err)
	}
	hmac, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	const header, payload = `{"alg":"EdDSA","typ":"` + TypeStatement + `"}`, `{"service":"keys"}`
	good := compact(header, payload, sign)
	var got Statement
	if err := VerifyJWS(TypeStatement, pub, good, &got); err != nil || got.Service != "keys" {
		t.Fatalf("hand-made document: %+v, %v", got, err)
	}
	part := strings.Split(good, ".")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for name, s := range map[string]string{
		"empty":            "",
		"two parts":        part[0] + "." + part[1],
		"no signature":     part[0] + "." + part[1] + ".",
		"trailing text":    good + "x",
		"trailing part":    good + ".e30",
		"trailing newline": good + "\n",
		// The last letter of 64 bytes carries four bits that mean nothing.
		"another spelling": good[:len(good)-1] + string(alphabet[strings.IndexByte(alphabet, good[len(good)-1])^1]),
		"JSON form":        fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, part[0], part[1], part[2]),
		"alg none":         compact(`{"alg":"none","typ":"`+TypeStatement+`"}`, payload, none),
		"alg None, signed": compact(`{"alg":"none","typ":"`+TypeStatement+`"}`, payload, sign),
		"alg HS256":        hmac,
		"other payload":    compact(header, `{"service":"evil"}`, func([]byte) []byte { return sign([]byte(part[0] + "." + part[1])) }),
		"unknown crit":     compact(`{"alg":"EdDSA","typ":"`+TypeStatement+`","crit":["x"],"x":1}`, payload, sign),
		"typ is a number":  compact(`{"alg":"EdDSA","typ":1}`, payload, sign),
		"typ in capitals":  compact(`{"alg":"EdDSA","typ":"`+strings.ToUpper(TypeStatement)+`"}`, payload, sign),
		"unknown field":    compact(header, `{"service":"keys","colour":1}`, sign),
		"field twice":      compact(header, `{"service":"keys","service":"evil"}`, sign),
		"field, capitals":  compact(header, `{"Service":"keys"}`, sign),
		"trailing value":   compact(header, payload+"{}", sign),
		"null":             compact(header, "null", sign),
		"too large":        compact(header, `{"service":"`+strings.Repeat("a", maxDocument)+`"}`, sign),
	} {
		err := VerifyJWS(TypeStatement, pub, s, &Statement{})
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

// TestJWSKeyInHeader: a key that travels in the header is not asked.
func TestJWSKeyInHeader(t *testing.T) {
	t.Parallel()
	pub, _ := testKey(t)
	_, evil := testKey(t)
	jwk := base64.RawURLEncoding.EncodeToString(evil.Public().(ed25519.PublicKey))
	s := compact(`{"alg":"EdDSA","typ":"`+TypeStatement+`","jwk":{"kty":"OKP","crv":"Ed25519","x":"`+jwk+`"}}`, `{"service":"keys"}`,
		func(in []byte) []byte { return ed25519.Sign(evil, in) })
	if err := VerifyJWS(TypeStatement, pub, s, &Statement{}); !errors.Is(err, ErrSignature) {
		t.Errorf("key in the header: %v", err)
	}
}

func TestReceiptJSON(t *testing.T) {
	t.Parallel()
	pub, priv := testKey(t)
	want := Receipt{Run: testID, Manifest: digest(1), Job: Job{Cluster: "box", ID: 1, ArrayTask: 3, Restart: 2}, Node: "cn1",
		Tier: TierC, Started: testTime, Ended: testTime.Add(time.Minute), Exit: 143, Reason: "time limit",
		Steps: []Step{{"mount", 0.25, 0}}, Output: Output{File: "outputs", VolumeID: testID, Until: "scratch"}}
	s, err := SignJWS(TypeReceipt, priv, want)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(s, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(payload), `"digest"`) {
		t.Errorf("an output without a digest carries one: %s", payload)
	}
	var got Receipt
	if err := VerifyJWS(TypeReceipt, pub, s, &got); err != nil || got.Output != want.Output || got.Job != want.Job {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestDecodeKey(t *testing.T) {
	t.Parallel()
	pub, _ := testKey(t)
	s := EncodeKey(pub)
	if got, err := DecodeKey(s); err != nil || !pub.Equal(got) {
		t.Errorf("round trip: %v", err)
	}
	for _, bad := range []string{"", s[1:], s + "A", s + "=", s + "\n", strings.Repeat("+", 43), s[:42] + "_"} {
		if bad == s {
			continue
		}
		if _, err := DecodeKey(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", bad, err)
		}
	}
}
