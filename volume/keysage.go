package volume

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// maxKeysAge bounds keys.age: thousands of recipients fit.
const maxKeysAge = 1 << 20

// keysFormat names the JSON in keys.age.
const keysFormat = "sealbatch-key-1"

// keysJSON is the plaintext of keys.age.
type keysJSON struct {
	Format string `json:"format"`
	Volume ID     `json:"volume"`
	// Key is 64 hexadecimal digits, ready for `gocryptfs -masterkey=stdin`.
	Key string `json:"key"`
}

// WrapKey writes the content of a keys.age file: the volume's id and master key
// as JSON, encrypted to the recipients with age. It proves no origin: anyone
// can encrypt to a public recipient.
func WrapKey(w io.Writer, id ID, key Key, rcpts ...age.Recipient) error {
	return wrapKey(w, id, key, rcpts, 0)
}

// wrapKey is WrapKey with so many zeros in the header.
func wrapKey(w io.Writer, id ID, key Key, rcpts []age.Recipient, zeros int) error {
	if len(rcpts) == 0 {
		return fmt.Errorf("%w: no recipient given, so nobody could open the volume", ErrIdentity)
	}
	if key.IsZero() {
		return fmt.Errorf("%w: no key, or it was wiped", ErrKey)
	}
	plain, err := json.Marshal(keysJSON{Format: keysFormat, Volume: id, Key: key.Hex()})
	if err != nil {
		return fmt.Errorf("wrap the key: %w", err)
	}
	defer clear(plain)
	aw, err := age.Encrypt(w, greased(rcpts, zeros)...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecipients, err)
	}
	if _, err := aw.Write(append(plain, '\n')); err != nil {
		return fmt.Errorf("wrap the key: %w", err)
	}
	if err := aw.Close(); err != nil {
		return fmt.Errorf("wrap the key: %w", err)
	}
	return nil
}

// ReadKey opens the content of a keys.age file. ErrNoIdentity if it is
// encrypted to none of the identities; ErrKey and ErrIntegrity if it is damaged
// or holds no key.
func ReadKey(r io.Reader, ids ...age.Identity) (ID, Key, error) {
	if len(ids) == 0 {
		return ID{}, Key{}, fmt.Errorf("%w: none given", ErrNoIdentity)
	}
	file, err := fsx.ReadAll(r, maxKeysAge)
	if errors.Is(err, fsx.ErrTooLarge) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ID{}, Key{}, fmt.Errorf("%w: %w", errKeysAge, err)
	}
	if err != nil {
		return ID{}, Key{}, fmt.Errorf("read %s: %w", keysName, err)
	}
	ar, err := age.Decrypt(bytes.NewReader(file), ids...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none) && headerDamaged(file):
		return ID{}, Key{}, fmt.Errorf("%w: its list of recipients was altered", errKeysAge)
	case errors.As(err, &none):
		return ID{}, Key{}, fmt.Errorf("%w: it is encrypted to others", ErrNoIdentity)
	case errors.Is(err, ErrIdentity):
		return ID{}, Key{}, fmt.Errorf("open %s: %w", keysName, err)
	case err != nil:
		return ID{}, Key{}, fmt.Errorf("%w: %w", errKeysAge, err)
	}
	const maxJSON = 1024
	plain, err := fsx.ReadAll(ar, maxJSON)
	defer clear(plain)
	if errors.Is(err, fsx.ErrTooLarge) {
		return ID{}, Key{}, fmt.Errorf("%w: it holds more than a key", errKeysAge)
	}
	if err != nil {
		return ID{}, Key{}, fmt.Errorf("%w: %w", errKeysAge, err)
	}
	return parseKeysJSON(plain)
}

// parseKeysJSON reads the plaintext of keys.age. Errors do not quote it.
func parseKeysJSON(plain []byte) (ID, Key, error) {
	bad := func(why string) (ID, Key, error) {
		return ID{}, Key{}, fmt.Errorf("%w: it %s", errKeysAge, why)
	}
	var k keysJSON
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if d.Decode(&k) != nil {
		return bad("does not hold the expected JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("holds more than one JSON value")
	}
	if k.Format != keysFormat {
		return bad("has an unknown format")
	}
	var raw [KeySize]byte
	defer clear(raw[:])
	if decodeHex(raw[:], k.Key, "key") != nil { // its error would quote the key
		return bad("does not hold a key of 64 lower-case hexadecimal digits")
	}
	key, err := KeyFromBytes(raw[:])
	if err != nil {
		return bad("holds no key: all bytes are zero")
	}
	return k.Volume, key, nil
}

// UnwrapKey opens a sealed volume's own keys.age. This is for owners: it proves
// nothing about who made the volume. ErrNoIdentity if the volume is encrypted
// to none of the identities, ErrKey and ErrIntegrity if its keys.age is damaged or
// that of another volume.
func UnwrapKey(r io.ReaderAt, size int64, ids ...age.Identity) (Key, error) {
	f, err := readFooter(r, size)
	if err != nil {
		return Key{}, err
	}
	tr := tar.NewReader(io.NewSectionReader(r, 0, f.offset))
	hdr, err := tr.Next()
	if err != nil || hdr.Name != keysName || hdr.Typeflag != tar.TypeReg || hdr.Size > maxKeysAge {
		return Key{}, fmt.Errorf("%w: the volume does not begin with it", errKeysAge)
	}
	id, key, err := ReadKey(tr, ids...)
	if err != nil {
		return Key{}, err
	}
	if id != f.id {
		key.Wipe()
		return Key{}, fmt.Errorf("%w: it belongs to volume %s, and the volume's end says %s", errKeysAge, id, f.id)
	}
	return key, nil
}
