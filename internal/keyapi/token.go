package keyapi

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

// TokenSize is the size of a one-time token, in bytes; it is written base64url.
const TokenSize = 32

// ErrToken says that a text is no token.
var ErrToken = errors.New("not a token: 43 letters and digits are expected")

// TokenKeys are what a service keeps of a token: neither yields the token.
type TokenKeys struct {
	ID  string `json:"id"`  // 32 hex digits, names the token
	MAC []byte `json:"mac"` // HMAC-SHA256 key that proves its possession
}

// DeriveToken computes a token's keys by HKDF-SHA256.
func DeriveToken(token string) (TokenKeys, error) {
	t, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimSpace(token))
	if err != nil || len(t) != TokenSize {
		return TokenKeys{}, ErrToken
	}
	defer clear(t)
	id, err := hkdf.Key(sha256.New, t, nil, "sealbatch token id v1", 16)
	if err != nil {
		return TokenKeys{}, err
	}
	mac, err := hkdf.Key(sha256.New, t, nil, "sealbatch token mac v1", 32)
	return TokenKeys{ID: hex.EncodeToString(id), MAC: mac}, err
}

// Prove returns the proof for a claim to a service: HMAC over ClaimDigest.
func (k TokenKeys) Prove(service string, c Claim) string {
	d := ClaimDigest(service, c)
	m := hmac.New(sha256.New, k.MAC)
	m.Write(d[:])
	return k.ID + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Check reports whether proof is Prove's for that service and claim.
func (k TokenKeys) Check(proof, service string, c Claim) bool {
	return hmac.Equal([]byte(proof), []byte(k.Prove(service, c)))
}

// TokenEvidence proves possession of token for one claim to one service. The
// token itself does not travel, so a relay that sees the evidence cannot claim
// with it under a key of its own.
func TokenEvidence(token, service string, c Claim) (Evidence, error) {
	k, err := DeriveToken(token)
	if err != nil {
		return Evidence{}, err
	}
	return NewEvidence(EvidenceToken, TokenPayload{Proof: k.Prove(service, c)})
}
