package boltstore

import (
	"context"
	"crypto/subtle"
	"errors"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
)

const bucketKeys = "volume-keys" // by volume id: the key

// recordKeys keeps the volumes' keys among the service's records.
type recordKeys struct{ records store.Store }

// OpenKeys returns the key store that keeps the keys among the service's
// records, which seal them. It is a store.OpenKeys and takes no parameters.
func OpenKeys(_ context.Context, records store.Store, p store.Parameters) (store.KeyStoreCloser, error) {
	if err := p.Only(); err != nil {
		return nil, err
	}
	return recordKeys{records}, nil
}

// PutKey implements store.KeyStore.
func (s recordKeys) PutKey(ctx context.Context, volume string, key []byte) error {
	return s.records.Update(ctx, func(w store.Writer) error {
		old, err := w.Get(bucketKeys, volume)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return w.Put(bucketKeys, volume, key)
		case err != nil:
			return err
		case subtle.ConstantTimeCompare(old, key) != 1:
			return store.ErrKeyExists
		}
		return nil
	})
}

// Key implements store.KeyStore.
func (s recordKeys) Key(ctx context.Context, volume string) (k []byte, err error) {
	err = s.records.View(ctx, func(r store.Reader) error {
		k, err = r.Get(bucketKeys, volume)
		return err
	})
	return k, err
}

// Close implements store.KeyStoreCloser. The records stay open.
func (s recordKeys) Close() error { return nil }
