package keyserver

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	bucketKeys = "volume-keys"
	bucketMeta = "meta"
	keyCanary  = "canary"
	// mapSize is address space, not memory: a store that outgrows its mapping
	// must wait for all readers to map it anew.
	mapSize = 256 << 20
)

// Bolt is the embedded store: one bbolt file, every value sealed. It is a
// Store and a KeyStore. Keys of records (ids, digests) are not sealed.
type Bolt struct {
	db   *bbolt.DB
	seal *sealer
}

// OpenBolt opens or makes the store at path. A wrong master key is
// ErrStoreSeal; a file in use by another process is an error after a second.
func OpenBolt(path string, k MasterKey) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, InitialMmapSize: mapSize})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("store %s is in use: another key service runs on it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	s := &Bolt{db: db, seal: newSealer(k)}
	if err := s.checkKey(); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", path, err), db.Close())
	}
	return s, nil
}

// checkKey finds a wrong master key when the store is opened, not when the
// first key is asked for.
func (s *Bolt) checkKey() error {
	return s.Update(context.Background(), func(w Writer) error {
		_, err := w.Get(bucketMeta, keyCanary)
		if errors.Is(err, ErrNotFound) {
			return w.Put(bucketMeta, keyCanary, []byte("sealbatch store v1"))
		}
		return err
	})
}

// Close closes the file.
func (s *Bolt) Close() error { return s.db.Close() }

// View implements Store.
func (s *Bolt) View(ctx context.Context, fn func(Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error { return fn(boltTx{tx, s.seal}) })
}

// Update implements Store.
func (s *Bolt) Update(ctx context.Context, fn func(Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error { return fn(boltTx{tx, s.seal}) })
}

// PutKey implements KeyStore.
func (s *Bolt) PutKey(ctx context.Context, volume string, key []byte) error {
	return s.Update(ctx, func(w Writer) error {
		old, err := w.Get(bucketKeys, volume)
		switch {
		case errors.Is(err, ErrNotFound):
			return w.Put(bucketKeys, volume, key)
		case err != nil:
			return err
		case subtle.ConstantTimeCompare(old, key) != 1:
			return ErrKeyExists
		}
		return nil
	})
}

// Key implements KeyStore.
func (s *Bolt) Key(ctx context.Context, volume string) (k []byte, err error) {
	err = s.View(ctx, func(r Reader) error {
		k, err = r.Get(bucketKeys, volume)
		return err
	})
	return k, err
}

type boltTx struct {
	tx   *bbolt.Tx
	seal *sealer
}

func (t boltTx) Get(bucket, key string) ([]byte, error) {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil, ErrNotFound
	}
	v := b.Get([]byte(key))
	if v == nil {
		return nil, ErrNotFound
	}
	return t.seal.open(bucket, key, v)
}

func (t boltTx) Each(bucket, prefix string, fn func(string, []byte) error) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		p, err := t.seal.open(bucket, string(k), v)
		if err != nil {
			return err
		}
		if err := fn(string(k), p); err != nil {
			return err
		}
	}
	return nil
}

func (t boltTx) Put(bucket, key string, value []byte) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("store bucket %s: %w", bucket, err)
	}
	v, err := t.seal.seal(bucket, key, value)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), v)
}

func (t boltTx) Delete(bucket, key string) error {
	if b := t.tx.Bucket([]byte(bucket)); b != nil {
		return b.Delete([]byte(key))
	}
	return nil
}
