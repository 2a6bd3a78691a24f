package boltstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// MasterKey seals every value of the embedded store.
type MasterKey [32]byte

// maxMasterKey bounds a master key file, in bytes.
const maxMasterKey = 128

// LoadMasterKey reads a master key file: 64 hex digits, for its owner's eyes
// only (trusted.Secret). store.ErrDamaged if it holds something else.
func LoadMasterKey(path string) (MasterKey, error) {
	var k MasterKey
	b, err := trusted.ReadSecret(path, maxMasterKey)
	if err != nil {
		return k, fmt.Errorf("master key: %w", err)
	}
	defer clear(b)
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != len(k) {
		return k, fmt.Errorf("master key %s: %w: it does not hold 64 hex digits", path, store.ErrDamaged)
	}
	return MasterKey(raw), nil
}

// Derive returns a key of 32 bytes for one purpose (HKDF-SHA256), which says
// nothing of the keys that seal records.
func (k MasterKey) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, k[:], nil, "sealbatch derived v1\x00"+purpose, 32)
}

// sealer seals values with AES-256-GCM under a key of their bucket (HKDF-SHA256
// of the master key), with a random 12-byte nonce in front. Bucket and key are
// additional data, so that no value opens in another's place.
type sealer struct {
	master MasterKey
	mu     sync.Mutex
	aeads  map[string]cipher.AEAD
}

func newSealer(k MasterKey) *sealer { return &sealer{master: k, aeads: map[string]cipher.AEAD{}} }

func (s *sealer) aead(bucket string) (cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.aeads[bucket]; ok {
		return a, nil
	}
	k, err := hkdf.Key(sha256.New, s.master[:], nil, "sealbatch store v1\x00"+bucket, 32)
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		return nil, err
	}
	s.aeads[bucket] = a
	return a, nil
}

func place(bucket, key string) []byte { return []byte(bucket + "\x00" + key) }

func (s *sealer) seal(bucket, key string, value []byte) ([]byte, error) {
	a, err := s.aead(bucket)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, a.NonceSize(), a.NonceSize()+len(value)+a.Overhead())
	rand.Read(nonce) // never fails
	return a.Seal(nonce, nonce, value, place(bucket, key)), nil
}

func (s *sealer) open(bucket, key string, sealed []byte) ([]byte, error) {
	a, err := s.aead(bucket)
	if err != nil {
		return nil, err
	}
	if len(sealed) < a.NonceSize() {
		return nil, errors.Join(store.ErrSeal, fmt.Errorf("in bucket %s: too short", bucket))
	}
	v, err := a.Open(nil, sealed[:a.NonceSize()], sealed[a.NonceSize():], place(bucket, key))
	if err != nil {
		return nil, fmt.Errorf("%w (bucket %s)", store.ErrSeal, bucket)
	}
	return v, nil
}
