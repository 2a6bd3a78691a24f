package volume

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// KeySize is the length of a master key in bytes (gocryptfs: cryptocore.KeyLen).
const KeySize = 32

const redacted = "[redacted key]"

// Key is a volume's master key. It never prints: formatting it gives a
// placeholder, encoding it as JSON or text is an error. Copies share the same
// bytes, so Wipe on one wipes all. The zero Key holds no key.
type Key struct {
	s *secret
}

// secret is reached through two pointers, because fmt prints unexported fields
// of an enclosing struct without asking their methods; it follows one pointer
// when the verb does not fit, and prints a second as an address.
type secret struct{ b *[KeySize]byte }

func blankKey() Key { return Key{s: &secret{b: new([KeySize]byte)}} }

// NewKey returns a random master key.
func NewKey() (Key, error) { return newKey(rand.Reader) }

func newKey(random io.Reader) (Key, error) {
	k := blankKey()
	if _, err := io.ReadFull(random, k.s.b[:]); err != nil {
		return Key{}, fmt.Errorf("make a master key: %w", err)
	}
	return k, nil
}

// KeyFromBytes copies a 32-byte master key. All zeros (a wiped key) and other
// lengths are refused with ErrKey.
func KeyFromBytes(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, fmt.Errorf("%w: %d bytes instead of %d", ErrKey, len(b), KeySize)
	}
	k := blankKey()
	copy(k.s.b[:], b)
	if k.IsZero() {
		return Key{}, fmt.Errorf("%w: all bytes are zero", ErrKey)
	}
	return k, nil
}

// IsZero reports whether k holds no key or a wiped one.
func (k Key) IsZero() bool { return k.s == nil || k.Equal(blankKey()) }

// Equal compares in constant time.
func (k Key) Equal(other Key) bool {
	if k.s == nil || other.s == nil {
		return k.s == other.s
	}
	return subtle.ConstantTimeCompare(k.s.b[:], other.s.b[:]) == 1
}

// Bytes returns a copy of the key, nil for the zero Key. Clear it after use.
func (k Key) Bytes() []byte {
	if k.s == nil {
		return nil
	}
	return append([]byte(nil), k.s.b[:]...)
}

// Hex returns 64 lower-case hexadecimal digits: the line that
// `gocryptfs -masterkey=stdin` reads (the dashes that it prints are optional).
func (k Key) Hex() string { return hex.EncodeToString(k.Bytes()) }

// Wipe overwrites the key in k and in all copies of k.
func (k *Key) Wipe() {
	if k.s != nil {
		clear(k.s.b[:])
	}
}

// String returns a placeholder.
func (k Key) String() string { return redacted }

// GoString returns a placeholder.
func (k Key) GoString() string { return redacted }

// Format writes a placeholder whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns a placeholder.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// errKeyEncoded keeps keys out of every encoder that asks.
var errKeyEncoded = errors.New("a master key is never encoded: wrap it to recipients instead")

// MarshalJSON always fails.
func (k Key) MarshalJSON() ([]byte, error) { return nil, errKeyEncoded }

// MarshalText always fails.
func (k Key) MarshalText() ([]byte, error) { return nil, errKeyEncoded }

// ID is a volume's random identifier, written as 32 hexadecimal digits.
type ID [16]byte

// ParseID reads what String writes.
func ParseID(s string) (ID, error) {
	var id ID
	return id, decodeHex(id[:], s, "volume id")
}

// String returns 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// Digest is a SHA-256, written as "sha256:" and 64 hexadecimal digits.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// ParseDigest reads what String writes.
func ParseDigest(s string) (Digest, error) {
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok {
		return Digest{}, fmt.Errorf("digest %q does not begin with %q", s, digestPrefix)
	}
	var d Digest
	return d, decodeHex(d[:], digits, "digest")
}

// String returns "sha256:" and 64 lower-case hexadecimal digits.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// decodeHex fills dst from exactly 2*len(dst) lower-case hexadecimal digits,
// so that equal values have equal texts.
func decodeHex(dst []byte, s, what string) error {
	if len(s) != 2*len(dst) || strings.ToLower(s) != s {
		return fmt.Errorf("%s %q is not %d lower-case hexadecimal digits", what, s, 2*len(dst))
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		return fmt.Errorf("%s %q: %w", what, s, err)
	}
	return nil
}
