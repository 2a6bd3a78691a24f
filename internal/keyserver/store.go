package keyserver

import (
	"context"
	"errors"
)

// Errors of stores.
var (
	// ErrNotFound says that there is no such key.
	ErrNotFound = errors.New("not in the store")
	// ErrKeyExists says that another key is stored for that volume.
	ErrKeyExists = errors.New("another key is stored for this volume")
	// ErrStoreSeal says that a stored value does not open: wrong master key,
	// or a value that was altered or moved.
	ErrStoreSeal = errors.New("stored value does not open under the master key")
)

// Reader reads records. Get returns a copy, or ErrNotFound. Each calls fn for
// the keys of a bucket that begin with prefix, in byte order, and stops at fn's
// first error; a bucket that was never written is empty. Code within a View must
// not wait for an Update.
type Reader interface {
	Get(bucket, key string) ([]byte, error)
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
}

// Writer changes records within one Update. Get and Each see what was put
// before; nothing may be put while Each runs.
type Writer interface {
	Reader
	Put(bucket, key string, value []byte) error
	Delete(bucket, key string) error // no error if there is none
}

// Store keeps the service's records. Updates are serialisable and atomic: of
// an fn that fails or panics nothing remains, and once Update has returned nil
// all of it is on disk. View sees a snapshot. Both are safe for concurrent use.
type Store interface {
	View(ctx context.Context, fn func(Reader) error) error
	Update(ctx context.Context, fn func(Writer) error) error
}

// KeyStore keeps the volumes' keys, 32 bytes each, by volume id. A key never
// changes: PutKey is atomic and idempotent, the same key again is no error,
// another key for the same volume is ErrKeyExists and the first stays. Once it
// has returned nil the key is durable. Key returns a copy, or ErrNotFound.
type KeyStore interface {
	PutKey(ctx context.Context, volume string, key []byte) error
	Key(ctx context.Context, volume string) ([]byte, error)
}
