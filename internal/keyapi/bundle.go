package keyapi

import (
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// ErrBundle says that sealed keys do not open: they were sealed to another
// key, for another claim or by another service, or were altered.
var ErrBundle = errors.New("released keys do not open with this node's key for this claim")

// SealBundle seals b to the claim's E (RFC 9180 base mode, one message; the
// encapsulated key comes first).
func SealBundle(service string, c Claim, b Bundle) ([]byte, error) {
	pub, err := hpke.MLKEM768X25519().NewPublicKey(c.E)
	if err != nil {
		return nil, fmt.Errorf("%w: E is not an MLKEM768X25519 public key", ErrInvalid)
	}
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), ReleaseInfo(service, c), plain)
}

// OpenBundle opens what SealBundle made for the same service and claim.
func OpenBundle(key hpke.PrivateKey, service string, c Claim, sealed []byte) (Bundle, error) {
	plain, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), ReleaseInfo(service, c), sealed)
	if err != nil {
		return Bundle{}, ErrBundle
	}
	defer clear(plain)
	var b Bundle
	if err := manifest.DecodeJSON(plain, &b); err != nil {
		return Bundle{}, fmt.Errorf("released keys: %w", err)
	}
	return b, nil
}
