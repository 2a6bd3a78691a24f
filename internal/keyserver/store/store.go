// Package store is the seam between the key service and what keeps its records
// and the volumes' keys. Package storetest is the conformance test of both.
//
//	keyserver ── Store ───── boltstore: records, each value sealed
//	          └─ KeyStore ── slotstore: keys, each in a place that is overwritten
//	                         another package: one line in the table of KeyStores
package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Errors of stores.
var (
	// ErrNotFound says that there is no such key.
	ErrNotFound = errors.New("not in the store")
	// ErrKeyExists says that another key is stored for that volume.
	ErrKeyExists = errors.New("another key is stored for this volume")
	// ErrSeal says that a stored value does not open: wrong master key,
	// or a value that was altered or moved.
	ErrSeal = errors.New("stored value does not open under the master key")
	// ErrDamaged says that a file is not what a store writes.
	ErrDamaged = errors.New("the file is damaged")
	// ErrMissing says that a file of the store's is not there any more.
	ErrMissing = errors.New("the file is missing")
)

// Digest is the SHA-256 of a value as the store keeps it, which is sealed: it says
// nothing of the value, and tells an older one that was put back. The zero Digest
// stands for no value. As text it is base64url, or "-" for no value.
type Digest [sha256.Size]byte

const noValue = "-"

// DigestOf returns the digest of a value as it is kept.
func DigestOf(kept []byte) Digest { return sha256.Sum256(kept) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) {
	if d == (Digest{}) {
		return []byte(noValue), nil
	}
	return base64.RawURLEncoding.AppendEncode(nil, d[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	if string(text) == noValue {
		*d = Digest{}
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(d) {
		return errors.New("not a digest of a stored value")
	}
	*d = Digest(b)
	return nil
}

// Change is what became of one record. Its names in JSON are short, since every
// change is written down.
type Change struct {
	Bucket string `json:"b"`
	Key    string `json:"k"`
	Was    Digest `json:"was"`
	Now    Digest `json:"now"`
}

// Reader reads records. Get returns a copy, or ErrNotFound. Each calls fn for
// the keys of a bucket that begin with prefix, in byte order, and stops at fn's
// first error; a bucket that was never written is empty. EachAfter leaves out the
// keys up to after, at no cost. Digests calls fn for every record there is, by
// bucket and then key in byte order, without opening any, and stops at fn's first
// error. Code within a View must not wait for an Update.
type Reader interface {
	Get(bucket, key string) ([]byte, error)
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
	EachAfter(bucket, prefix, after string, fn func(key string, value []byte) error) error
	Digests(fn func(bucket, key string, kept Digest) error) error
}

// Writer changes records within one Update. Get, Each and Digests see what was
// put before; nothing may be put while Each or Digests runs. Changes returns what
// Put and Delete have done so far, in order, each as it was; a Delete of nothing is
// no change.
type Writer interface {
	Reader
	Put(bucket, key string, value []byte) error
	Delete(bucket, key string) error // no error if there is none
	Changes() []Change
}

// Viewer shows records. The key service lends it to what must not change them:
// a change that its audit log does not know of is a sign of tampering.
type Viewer interface {
	View(ctx context.Context, fn func(Reader) error) error
}

// Store keeps the service's records. Updates are serialisable and atomic: of
// an fn that fails or panics nothing remains, and once Update has returned nil
// all of it is on disk. View sees a snapshot; there is no View within a View.
// Both are safe for concurrent use.
type Store interface {
	Viewer
	Update(ctx context.Context, fn func(Writer) error) error
}

// Scrubber is a Store that can wipe what lies in its files and is no record any
// more: once Scrub has returned nil, no former value is left there, sealed or not.
type Scrubber interface {
	Scrub(ctx context.Context) error
}

// KeyStore keeps the volumes' keys, 32 bytes each, by volume id. Its methods are
// safe for concurrent use.
//
// PutKey keeps a key. It is atomic and idempotent: the same key again is no
// error, another key for the same volume is ErrKeyExists and the first stays.
// Once it has returned nil the key is durable. Key returns a copy, or ErrNotFound.
//
// DestroyKey destroys a key: once it has returned nil, no bytes are left in what
// the store keeps from which the key could be had, with every other secret of the
// service at hand. It is atomic and idempotent: a volume without a key is no
// error, and after an error the key is there still or is not given out any more,
// until DestroyKey of any volume has returned nil. The store does not remember
// whose keys it destroyed: its caller's records do, and are durable before it is
// called.
//
// EachKey calls fn for every volume that has a key, in no order, and stops at fn's
// first error. fn may call DestroyKey.
type KeyStore interface {
	PutKey(ctx context.Context, volume string, key []byte) error
	Key(ctx context.Context, volume string) ([]byte, error)
	DestroyKey(ctx context.Context, volume string) error
	EachKey(ctx context.Context, fn func(volume string) error) error
}

// KeyStoreCloser is a KeyStore that is closed after use.
type KeyStoreCloser interface {
	KeyStore
	io.Closer
}

// ErrConfig is wrapped by errors of OpenKeys that a change of the configuration mends.
var ErrConfig = errors.New("wrong configuration")

// Parameters are the keys of the configuration's section [key-store] but for its
// type, in lower case, with their values. Paths in them are absolute.
type Parameters map[string]string

// Only returns an error if there is a parameter that is not among known.
func (p Parameters) Only(known ...string) error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w: unknown parameter %.80q", ErrConfig, name)
		}
	}
	return nil
}

// Home is what a key store has of the service that opens it. Dir and Derive are
// always there.
type Home struct {
	Records Store  // the service's own, closed after the key store
	Dir     string // the service's data directory, absolute
	// Derive returns a key of 32 bytes that is the master key's for one purpose.
	Derive func(purpose string) ([]byte, error)
	Log    *slog.Logger // for warnings; nil for none
}

// OpenKeys opens a key store. It checks its parameters strictly.
type OpenKeys func(ctx context.Context, home Home, p Parameters) (KeyStoreCloser, error)

// KeyStores are the types of key stores, by the name that the configuration has
// for them.
type KeyStores map[string]OpenKeys

// Open opens a key store of a type.
func (t KeyStores) Open(ctx context.Context, typ string, home Home, p Parameters) (KeyStoreCloser, error) {
	open, ok := t[typ]
	if !ok {
		return nil, fmt.Errorf("%w: type %.80q is none of %s", ErrConfig, typ,
			strings.Join(slices.Sorted(maps.Keys(t)), ", "))
	}
	keys, err := open(ctx, home, p)
	if err != nil {
		return nil, fmt.Errorf("key store of type %s: %w", typ, err)
	}
	return keys, nil
}
