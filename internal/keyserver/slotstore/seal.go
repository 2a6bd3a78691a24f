package slotstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

const (
	keyLen   = 32
	nonceLen = 12
	tagLen   = 16
	idLen    = 16
	magic    = "sealbatch-slots1"
)

// Offsets within a slot and within the header.
const (
	slotNonce, slotKey     = idLen, idLen + nonceLen
	slotEnd                = slotKey + keyLen + tagLen
	headID, headNonce      = len(magic), len(magic) + idLen
	headCheck, headFilled  = headNonce + nonceLen, headNonce + nonceLen + tagLen
	additionalHead, inSlot = "header", "slot"
)

// sealer seals a file's slots.
type sealer struct {
	aead cipher.AEAD
	id   [idLen]byte // the file's
}

func newSealer(key []byte, id [idLen]byte) (*sealer, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(b)
	return &sealer{a, id}, err
}

func (s *sealer) additional(n int, v volumeID) []byte {
	b := binary.BigEndian.AppendUint64(append([]byte(inSlot), s.id[:]...), uint64(n))
	return append(b, v[:]...)
}

// seal returns slot n with a volume's key.
func (s *sealer) seal(n int, v volumeID, key []byte) []byte {
	slot := make([]byte, slotSize)
	copy(slot, v[:])
	nonce := slot[slotNonce:slotKey]
	rand.Read(nonce) // never fails
	s.aead.Seal(slot[slotKey:slotKey], nonce, key, s.additional(n, v))
	return slot
}

// open returns what slot n holds; store.ErrSeal if it was altered, moved or torn.
func (s *sealer) open(n int, slot []byte) (v volumeID, key []byte, err error) {
	copy(v[:], slot)
	key, err = s.aead.Open(nil, slot[slotNonce:slotKey], slot[slotKey:slotEnd], s.additional(n, v))
	if err != nil {
		return v, nil, fmt.Errorf("%w (slot %d)", store.ErrSeal, n)
	}
	return v, key, nil
}

// header returns the first bytes of the file.
func (s *sealer) header() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	copy(b[headID:], s.id[:])
	rand.Read(b[headNonce:headCheck])
	s.aead.Seal(b[headCheck:headCheck], b[headNonce:headCheck], nil, append([]byte(additionalHead), s.id[:]...))
	return b
}

// openHeader returns the sealer of a file that begins with b.
func openHeader(key, b []byte) (*sealer, error) {
	if string(b[:headID]) != magic {
		return nil, fmt.Errorf("%w: it does not begin as a file of key slots", store.ErrDamaged)
	}
	s, err := newSealer(key, [idLen]byte(b[headID:]))
	if err != nil {
		return nil, err
	}
	_, err = s.aead.Open(nil, b[headNonce:headCheck], b[headCheck:headFilled], append([]byte(additionalHead), s.id[:]...))
	if err != nil { // the records opened: it is not the master key's fault
		return nil, fmt.Errorf("%w, or another store's: %w", store.ErrDamaged, store.ErrSeal)
	}
	return s, nil
}
