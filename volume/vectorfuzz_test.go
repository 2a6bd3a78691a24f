package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// storedVector is a vector with its bytes.
type storedVector struct {
	formatVector
	b []byte
}

// storedVectors reads docs/vectors: the seeds of the fuzz targets.
func storedVectors(tb testing.TB) (out []storedVector) {
	tb.Helper()
	var f vectorFile
	b, err := os.ReadFile(filepath.Join(vectorsDir, "vectors.json"))
	must(tb, err)
	must(tb, json.Unmarshal(b, &f))
	for _, v := range f.Vectors {
		b, err := os.ReadFile(filepath.Join(vectorsDir, v.File))
		must(tb, err)
		out = append(out, storedVector{v, b})
	}
	return out
}

// FuzzVolume reads whole files with the key of one volume: a file reads as that
// volume, or not at all.
func FuzzVolume(f *testing.F) {
	for _, v := range storedVectors(f) {
		f.Add(v.b)
	}
	good := newVictim(f, "good-one")
	want, err := openAndDump(good.b, good.key)
	must(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := ReadDigest(bytes.NewReader(b), int64(len(b))); err != nil && !hasClass(err) {
			t.Errorf("ReadDigest: an error without a class: %v", err)
		}
		got, err := openAndDump(b, good.key)
		if err != nil && !hasClass(err) {
			t.Errorf("an error without a class: %v", err)
		}
		if err == nil && got != want {
			t.Errorf("it reads as\n%s", got)
		}
	})
}

// knownKeys are all keys that are wrapped in the vectors, for whatever volume.
func knownKeys(tb testing.TB) map[string]bool {
	known := map[string]bool{}
	for _, v := range storedVectors(tb) {
		if len(v.b) > 2*tarBlock {
			if _, key, err := ReadKey(bytes.NewReader(keysOf(tb, v.b)), vectorIdentity(tb, "x25519")...); err == nil {
				known[key.Hex()] = true
			}
		}
	}
	return known
}

// FuzzHead reads keys.age from whole files: the tar reader's edge.
func FuzzHead(f *testing.F) {
	for _, v := range storedVectors(f) {
		f.Add(v.b)
	}
	known, ids := knownKeys(f), vectorIdentity(f, "x25519")
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := UnwrapKey(bytes.NewReader(b), int64(len(b)), ids...)
		if err != nil && !hasClass(err) && !errors.Is(err, ErrKey) && !errors.Is(err, ErrNoIdentity) {
			t.Errorf("an error without a class: %v", err)
		}
		if err == nil && !known[key.Hex()] {
			t.Error("a key that nobody wrapped")
		}
	})
}

// FuzzKeysAge reads keys.age files.
func FuzzKeysAge(f *testing.F) {
	for _, v := range storedVectors(f) {
		if len(v.b) > 2*tarBlock && v.Class != "footer" {
			f.Add(keysOf(f, v.b))
		}
	}
	known, ids := knownKeys(f), vectorIdentity(f, "x25519")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, key, err := ReadKey(bytes.NewReader(b), ids...)
		if err != nil && !errors.Is(err, ErrKey) && !errors.Is(err, ErrNoIdentity) {
			t.Errorf("an error without a class: %v", err)
		}
		if err == nil && !known[key.Hex()] {
			t.Error("a key that nobody wrapped")
		}
	})
}

// FuzzTarget decrypts symbolic links' targets.
func FuzzTarget(f *testing.F) {
	var raw [KeySize]byte
	raw[0] = 1
	key, err := KeyFromBytes(raw[:])
	must(f, err)
	c, err := newCodec(key)
	must(f, err)
	nonce := bytes.Repeat([]byte{9}, nonceSize)
	sealed := c.cipherTarget("../target", nonce)
	f.Add("../target", sealed)
	f.Add("\xff", sealed[:10]+"\n"+sealed[10:]) // the decoder skips line ends
	f.Fuzz(func(t *testing.T, plain, cipher string) {
		if checkTarget(plain) == nil {
			sealed := c.cipherTarget(plain, nonce)
			if got, err := c.plainTarget(sealed); err != nil || got != plain || len(sealed) > 4095 {
				t.Errorf("%q came back as %q, %v", plain, got, err)
			}
		}
		got, err := c.plainTarget(cipher)
		if err != nil && !errors.Is(err, ErrIntegrity) {
			t.Errorf("an error without a class: %v", err)
		}
		if err == nil && c.cipherTarget(got, mustNonce(t, cipher)) != cipher {
			t.Errorf("%q has two encrypted forms", got)
		}
	})
}

func mustNonce(t *testing.T, cipher string) []byte {
	raw, err := nameEncoding.DecodeString(cipher)
	must(t, err)
	return raw[:nonceSize]
}
