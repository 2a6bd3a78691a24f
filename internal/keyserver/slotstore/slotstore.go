// Package slotstore keeps the volumes' keys in a file of slots of one size. A
// slot is overwritten in place and synced when its key is destroyed: unlike a
// database, which writes anew and leaves what was there in pages that it calls
// free, no earlier copy of a key is left in the file.
//
//	keys.slots    offset
//	   0   magic      "sealbatch-slots1"
//	  16   id         16 bytes, random: the records name the file that is theirs
//	  32   nonce      12
//	  44   check      16, AES-256-GCM tag of nothing: finds a wrong master key
//	  60   zeros      to 4096
//	4096   slot 0     128 bytes
//	4224   slot 1     ...
//
//	slot          offset
//	   0   volume     16 bytes, the volume's id
//	  16   nonce      12, random
//	  28   key        32, encrypted: AES-256-GCM
//	  60   tag        16
//	  76   zeros      to 128
//
// A free slot is zeros. All are sealed under one key, which is derived from the
// master key; additional data are "slot", the file's id, the slot's number
// (8 bytes, big endian) and the volume's id, so that no slot opens in another's
// place or file. A slot lies within one sector of a disk, which is written whole
// or not at all; what does not open all the same holds no key, and is wiped.
//
// Which volume is in which slot is read from the file when it is opened, and held
// in memory. The file's system must write in place: see InPlace.
package slotstore

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/names"
)

// FileName is what the file of slots is called, in the service's data directory.
const FileName = "keys.slots"

const (
	headerSize = 4096
	slotSize   = 128
	// growth is how many slots a file that is full grows by, zeros that are on
	// disk before they are used: putting a key takes no room of its own.
	growth = 512
)

type volumeID [16]byte

// Store is a key store, a store.KeyStore.
type Store struct {
	f    file
	seal *sealer
	log  *slog.Logger

	writing sync.Mutex // held by what changes the file
	slots   int        // in the file
	free    []int      // slots that are zeros
	spoilt  []int      // slots that are to be wiped before anything else is written

	mu sync.RWMutex // held to read a slot, and to change at
	at map[volumeID]int
}

// Open opens the file of slots, or makes it at the service's first start. It is a
// store.OpenKeys and takes one parameter, file: its absolute path, by default
// FileName in the data directory. A wrong master key is store.ErrSeal.
func Open(ctx context.Context, home store.Home, p store.Parameters) (store.KeyStoreCloser, error) {
	path, err := Path(home.Dir, p)
	if err != nil {
		return nil, err
	}
	key, err := home.Derive(purposeSlots)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	log := home.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f, head, err := openFile(ctx, home.Records, path, key)
	if err != nil {
		return nil, fmt.Errorf("keys in %s: %w", path, err)
	}
	s, err := load(f, head, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keys in %s: %w", path, err), fsx.Unlock(f))
	}
	if fs, ok := InPlace(path); !ok {
		log.Warn("keys lie on a file system that does not overwrite in place: "+
			"what was destroyed stays on its disk for a while", "file", path, "file system", fs)
	}
	return s, nil
}

// purposeSlots names the key that seals the slots.
const purposeSlots = "key slots"

// Path returns the path of the file of slots, by Open's parameters.
func Path(dir string, p store.Parameters) (string, error) {
	if err := p.Only("file"); err != nil {
		return "", err
	}
	path, ok := p["file"]
	if !ok {
		return filepath.Join(dir, FileName), nil
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: file %.80q is not an absolute path", store.ErrConfig, path)
	}
	return path, nil
}

func parseID(volume string) (v volumeID, err error) {
	if !names.ID(volume) {
		return v, fmt.Errorf("%.80q is not a volume's id", volume)
	}
	_, err = hex.Decode(v[:], []byte(volume))
	return v, err
}

// PutKey implements store.KeyStore.
func (s *Store) PutKey(ctx context.Context, volume string, key []byte) error {
	v, err := parseID(volume)
	if err != nil {
		return err
	}
	if len(key) != keyLen {
		return fmt.Errorf("a key of %d bytes", len(key))
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	old, err := s.get(v)
	defer clear(old)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	case subtle.ConstantTimeCompare(old, key) != 1:
		return store.ErrKeyExists
	default:
		return nil
	}
	return s.put(v, key)
}

// put writes a key into a free slot. If that fails the slot is wiped before the
// file is used again.
func (s *Store) put(v volumeID, key []byte) error {
	if err := s.wipe(); err != nil {
		return err
	}
	if len(s.free) == 0 {
		if err := s.grow(); err != nil {
			return err
		}
	}
	n := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	if err := s.write(n, s.seal.seal(n, v, key)); err != nil {
		s.spoilt = append(s.spoilt, n)
		return errors.Join(err, s.wipe())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[v] = n
	return nil
}

// Key implements store.KeyStore.
func (s *Store) Key(ctx context.Context, volume string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err := parseID(volume)
	if err != nil {
		return nil, store.ErrNotFound
	}
	return s.get(v)
}

func (s *Store) get(v volumeID) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.at[v]
	if !ok {
		return nil, store.ErrNotFound
	}
	b := make([]byte, slotSize)
	if _, err := s.f.ReadAt(b, offset(n)); err != nil {
		return nil, fmt.Errorf("slot %d: %w", n, err)
	}
	_, key, err := s.seal.open(n, b)
	return key, err
}

// DestroyKey implements store.KeyStore.
func (s *Store) DestroyKey(ctx context.Context, volume string) error {
	v, err := parseID(volume)
	if err != nil {
		return nil // has no key
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if n, ok := s.at[v]; ok {
		delete(s.at, v)
		s.spoilt = append(s.spoilt, n)
	}
	s.mu.Unlock()
	return s.wipe()
}

// wipe makes the spoilt slots free.
func (s *Store) wipe() error {
	if len(s.spoilt) == 0 {
		return nil
	}
	for _, n := range s.spoilt {
		if _, err := s.f.WriteAt(make([]byte, slotSize), offset(n)); err != nil {
			return fmt.Errorf("wipe slot %d: %w", n, err)
		}
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("wipe slots: %w", err)
	}
	s.free = append(s.free, s.spoilt...)
	s.spoilt = nil
	return nil
}

// EachKey implements store.KeyStore.
func (s *Store) EachKey(ctx context.Context, fn func(string) error) error {
	s.mu.RLock()
	all := make([]volumeID, 0, len(s.at))
	for v := range s.at {
		all = append(all, v)
	}
	s.mu.RUnlock()
	for _, v := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(hex.EncodeToString(v[:])); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file, and gives it up to another process.
func (s *Store) Close() error { return s.f.Close() }
