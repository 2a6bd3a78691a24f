package keyapi

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

const digestHead, digestTail = "sha-256=:", ":"

// ContentDigest returns the value of HeaderDigest for a body.
func ContentDigest(body manifest.Digest) string {
	return digestHead + base64.StdEncoding.EncodeToString(body[:]) + digestTail
}

// ParseContentDigest returns the digest that the values of HeaderDigest name. There is
// one spelling, that of ContentDigest: other algorithms, several of them and
// parameters, which RFC 9530 permits, are refused with ErrInvalid.
func ParseContentDigest(values []string) (d manifest.Digest, err error) {
	if len(values) != 1 {
		return d, fmt.Errorf("%w: header %s stands there %d times", ErrInvalid, HeaderDigest, len(values))
	}
	text, head := strings.CutPrefix(values[0], digestHead)
	text, tail := strings.CutSuffix(text, digestTail)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || !head || !tail || len(b) != len(d) || ContentDigest(manifest.Digest(b)) != values[0] {
		return d, fmt.Errorf("%w: header %s is not %sBASE64%s", ErrInvalid, HeaderDigest, digestHead, digestTail)
	}
	return manifest.Digest(b), nil
}
