// Package madeup is a key store that exists for tests: one file a key. It shows
// what a type of key store needs: an OpenKeys, and a line in the table of
// store.KeyStores.
package madeup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/names"
)

const maxKey = 64 // bytes

type keys struct{ dir string }

// Open is a store.OpenKeys. The parameter directory names the keys' directory.
func Open(_ context.Context, _ store.Home, p store.Parameters) (store.KeyStoreCloser, error) {
	if err := p.Only("directory"); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(p["directory"]) {
		return nil, fmt.Errorf("%w: directory %.80q is not an absolute path", store.ErrConfig, p["directory"])
	}
	return keys{p["directory"]}, nil
}

// PutKey implements store.KeyStore.
func (k keys) PutKey(ctx context.Context, volume string, key []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !names.ID(volume) {
		return fmt.Errorf("%.80q is not a volume's id", volume)
	}
	f, err := os.CreateTemp(k.dir, "new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link is atomic, and fails if there is a key.
	err = os.Link(f.Name(), filepath.Join(k.dir, volume))
	if errors.Is(err, fs.ErrExist) {
		old, err := k.Key(ctx, volume)
		if err == nil && !bytes.Equal(old, key) {
			return store.ErrKeyExists
		}
		return err
	}
	return errors.Join(err, fsx.SyncDir(k.dir))
}

// Key implements store.KeyStore.
func (k keys) Key(ctx context.Context, volume string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !names.ID(volume) {
		return nil, store.ErrNotFound
	}
	b, err := fsx.ReadRegular(filepath.Join(k.dir, volume), maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, store.ErrNotFound
	}
	return b, err
}

// DestroyKey implements store.KeyStore.
func (k keys) DestroyKey(ctx context.Context, volume string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !names.ID(volume) {
		return nil
	}
	path := filepath.Join(k.dir, volume)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, maxKey))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Remove(path), fsx.SyncDir(k.dir))
}

// EachKey implements store.KeyStore.
func (k keys) EachKey(_ context.Context, fn func(volume string) error) error {
	all, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		if !names.ID(e.Name()) { // being put
			continue
		}
		if err := fn(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// Close implements store.KeyStoreCloser.
func (k keys) Close() error { return nil }
