package keyserver

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
)

// TestNonces judges nonces of this service and others, at all times.
func TestNonces(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{1}, 32)
	n := newNonces(key, "one#1")
	now := time.Unix(1_800_000_000, 0)
	one, two := n.issue(now), n.issue(now)
	if bytes.Equal(one.Nonce, two.Nonce) || len(one.Nonce) != keyapi.NonceSize || !one.Expires.Equal(now.Add(keyapi.NonceTTL)) {
		t.Errorf("issued %x and %x, until %s", one.Nonce, two.Nonce, one.Expires)
	}
	for name, tc := range map[string]struct {
		n     nonces
		after time.Duration
		want  string
	}{
		"at once":                 {n, 0, ""},
		"at the end":              {n, keyapi.NonceTTL, ""},
		"late":                    {n, keyapi.NonceTTL + time.Nanosecond, "it is good for 1m0s"},
		"the clock was set back":  {n, -nonceSkew, ""},
		"it was set back by more": {n, -nonceSkew - time.Second, "2m1s ahead of the key service's clock"},
		"another run":             {newNonces(key, "one#1"), 0, ""},
		"another service":         {newNonces(key, "one#2"), 0, "not one that this key service made"},
		"another key":             {newNonces(bytes.Repeat([]byte{2}, 32), "one#1"), 0, "not one that this key service made"},
		"a run without a key":     {newNonces(nil, "one#1"), 0, "not one that this key service made"},
	} {
		err := tc.n.check(one.Nonce, now.Add(tc.after))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	for i := range one.Nonce {
		altered := bytes.Clone(one.Nonce)
		altered[i] ^= 1
		if n.check(altered, now) == nil {
			t.Errorf("a nonce with another byte %d is good", i)
		}
	}
	for _, odd := range [][]byte{nil, one.Nonce[:31], append(bytes.Clone(one.Nonce), 0)} {
		if n.check(odd, now) == nil {
			t.Errorf("a nonce of %d bytes is good", len(odd))
		}
	}
}
