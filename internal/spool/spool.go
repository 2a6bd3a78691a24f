// Package spool keeps what is too large for memory and must not be read by others,
// such as the layers of a container image between two readings, in a file that has
// no name, under a key that is in this process's memory only.
//
// The file is a row of slots of one size, each of which holds one block of one blob:
//
//	slot 0                    slot 1                    slot 2
//	┌────────────────┬─────┐  ┌────────────────┬─────┐  ┌─────────┬─────┐
//	│ 64 KiB, sealed │ tag │  │ 64 KiB, sealed │ tag │  │ a tail  │ tag │   AES-256-GCM, nonce = slot
//	└────────────────┴─────┘  └────────────────┴─────┘  └─────────┴─────┘
//	 blob A, block 0           blob B, block 0           blob A, block 1
//
// A slot is dealt by a counter that only grows, when its block is complete, and there is no way to write
// a block again: no nonce serves twice. Which slots are a blob's, in which order, and how
// long it is, is in memory only; so a block that was altered, moved or exchanged in the file does
// not open. The key is made by New and is nowhere but in the cipher's state; after Close nothing
// refers to that any more (package harden keeps it out of core files).
package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// BlockSize is how many bytes of a blob a slot holds.
const BlockSize = 64 << 10

const slotSize = BlockSize + 16 // and GCM's tag

// Errors of reading and writing.
var (
	// ErrDamaged: the file does not hold what was written to it.
	ErrDamaged = fault.Sentinel(fault.Integrity, "the spool file was altered or is damaged")
	// ErrFull: the spool's file system has not enough room.
	ErrFull = errors.New("not enough room for the spool")
	// ErrClosed: the spool was closed before.
	ErrClosed = errors.New("the spool is closed")
)

// Spool is a file of blobs. Its methods may be called from several goroutines.
type Spool struct {
	dir  string
	f    *os.File
	aead atomic.Pointer[cipher.AEAD] // nil once closed
	next atomic.Uint64               // the slot that is dealt next
}

// New makes a spool in dir; "" is os.TempDir. What it takes of the file system is given back by Close, or when the
// process ends, however it ends.
func New(dir string) (*Spool, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := nameless(dir)
	if err != nil {
		return nil, fault.New(fault.Other, fmt.Errorf("make a spool in %s: %w", dir, err), roomHint)
	}
	s := &Spool{dir: dir, f: f}
	key := make([]byte, 32)
	rand.Read(key) // never fails
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.aead.Store(&aead)
	return s, nil
}

const roomHint = "TMPDIR names the directory for it: choose one on a file system with room (what lies there is encrypted)"

// nameless opens a new file that has no name, or has had one for a moment where the file system cannot do without.
func nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.EINVAL) {
		return f, err
	}
	return unlinked(dir)
}

func unlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".sealbatch-spool-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Room reports whether blobs of size bytes fit, as far as that can be told: ErrFull if they do not.
func (s *Spool) Room(size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.f.Fd()), &st); err != nil {
		return fmt.Errorf("ask for the room in %s: %w", s.dir, err)
	}
	need, free := uint64(size)/BlockSize*slotSize+slotSize, st.Bavail*uint64(st.Frsize)
	if need <= free {
		return nil
	}
	return fault.New(fault.Other, fmt.Errorf("%w: %s has %s left, and %s are needed", ErrFull, s.dir,
		text.Size(int64(free)), text.Size(int64(need))), roomHint)
}

// Close gives back the room, and forgets the key.
func (s *Spool) Close() error {
	if s.aead.Swap(nil) == nil {
		return nil
	}
	return s.f.Close()
}

func (s *Spool) cipher() (cipher.AEAD, error) {
	if p := s.aead.Load(); p != nil {
		return *p, nil
	}
	return nil, ErrClosed
}

func nonceOf(slot uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4, 12), slot) }

// put seals a block into the next slot, and returns which that is. scratch has room for a slot.
func (s *Spool) put(block, scratch []byte) (uint64, error) {
	aead, err := s.cipher()
	if err != nil {
		return 0, err
	}
	slot := s.next.Add(1) - 1 // spent, whatever becomes of the write
	sealed := aead.Seal(scratch[:0], nonceOf(slot), block, nil)
	if _, err := s.f.WriteAt(sealed, int64(slot)*slotSize); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fault.New(fault.Other, fmt.Errorf("%w: %s: %w", ErrFull, s.dir, err), roomHint)
		}
		return 0, fmt.Errorf("write to the spool: %w", err)
	}
	return slot, nil
}

// get opens a slot that holds size bytes; what it returns lies in scratch.
func (s *Spool) get(slot uint64, size int, scratch []byte) ([]byte, error) {
	aead, err := s.cipher()
	if err != nil {
		return nil, err
	}
	sealed := scratch[:size+aead.Overhead()]
	if n, err := s.f.ReadAt(sealed, int64(slot)*slotSize); n < len(sealed) {
		return nil, fmt.Errorf("read from the spool: %w", errors.Join(ErrDamaged, err))
	}
	block, err := aead.Open(sealed[:0], nonceOf(slot), sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("read from the spool: %w", ErrDamaged)
	}
	return block, nil
}
