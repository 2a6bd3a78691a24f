package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKeyNeverPrints(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{0xab, 0xcd, 0x41, 0x5a}, 8)
	k, err := KeyFromBytes(raw)
	must(t, err)
	inside := struct {
		Public Key
		hidden Key
		ptr    *Key
	}{k, k, &k}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%b"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", k, &k, inside)
		fmt.Fprintf(&out, verb+"\n", []any{k, []Key{k}, map[string]Key{"k": k}, Sealed{Key: k}})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "in", inside)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "in", inside)
	// Two or more bytes each: one byte's digits may stand in an address.
	for _, leak := range []string{"abcd415a", "ABCD415A", "171 205", "171, 205", "0xab, 0xcd", "10101011 11001101", "AZ",
		string(raw[:3]), `\xab`} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("the key shows as %q in:\n%s", leak, out.String())
		}
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("no placeholder")
	}
	if b, err := json.Marshal(inside); err == nil {
		t.Errorf("encoded as JSON: %s", b)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(i)
	}
	k, err := KeyFromBytes(raw)
	must(t, err)
	if k.Hex() != "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" {
		t.Error(k.Hex())
	}
	raw[0] = 99
	if k.Bytes()[0] != 0 {
		t.Error("the key shares its bytes with the caller")
	}
	twin := k
	k.Wipe()
	if !k.IsZero() || !twin.IsZero() {
		t.Error("a wiped key is still there")
	}
	if _, err := newCodec(twin); !errors.Is(err, ErrKey) {
		t.Errorf("a wiped key was used: %v", err)
	}
	for _, bad := range [][]byte{nil, raw[:31], append(raw, 0), make([]byte, 32)} {
		if _, err := KeyFromBytes(bad); !errors.Is(err, ErrKey) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if (Key{}).Equal(twin) || !(Key{}).Equal(Key{}) || !(Key{}).IsZero() || (Key{}).Bytes() != nil {
		t.Error("the zero key")
	}
}

func TestTextForms(t *testing.T) {
	t.Parallel()
	type both struct {
		ID     ID
		Digest Digest
	}
	in := both{ID{1, 0xfe}, Digest{2, 0xfd}}
	b, err := json.Marshal(in)
	must(t, err)
	want := `{"ID":"01fe0000000000000000000000000000","Digest":"sha256:02fd` + strings.Repeat("0", 60) + `"}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	var out both
	must(t, json.Unmarshal(b, &out))
	if out != in {
		t.Errorf("got %v", out)
	}
	hex64 := strings.Repeat("0a", 32)
	for _, bad := range []string{"", hex64, "sha256:", "sha256:" + hex64[1:], "sha256:" + hex64 + "0",
		"sha256:" + strings.ToUpper(hex64), "sha512:" + hex64, "sha256:g" + hex64[1:]} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("digest %q accepted", bad)
		}
	}
	for _, bad := range []string{"", hex64[:31], hex64[:33], strings.ToUpper(hex64[:32]), "zz" + hex64[:30]} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("id %q accepted", bad)
		}
	}
}
