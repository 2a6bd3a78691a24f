// Package boltstore is the embedded store: one bbolt file, every value sealed
// under the master key. Keys of records (ids, digests) are not sealed.
//
//	bucket "secrets"  VOLUME   -> nonce (12) | AES-256-GCM(value), by a key of the bucket
//	bucket "meta"     "canary" -> the same, of a constant: finds a wrong master key
//
// What was replaced or deleted stays in the file's free pages until Scrub wipes them.
package boltstore

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// FileName is what the store's file is called, in the service's data directory.
const FileName = "store.db"

const (
	bucketMeta = "meta"
	keyCanary  = "canary"
	// mapSize is address space, not memory: a store that outgrows its mapping
	// must wait for all readers to map it anew.
	mapSize = 256 << 20
)

// Store is the embedded store, a store.Store.
type Store struct {
	db    *bbolt.DB
	seal  *sealer
	views sync.RWMutex // held by each View, and by Scrub

	broken atomic.Pointer[error] // what was found once: nothing is written any more
}

// Open opens or makes the store at path. A wrong master key is store.ErrSeal, a
// file that bbolt cannot read store.ErrDamaged; a file that another process uses is
// ErrInUse after a second.
func Open(path string, k MasterKey) (*Store, error) {
	s, err := open(path, k, &bbolt.Options{Timeout: time.Second, InitialMmapSize: mapSize})
	if err != nil {
		return nil, err
	}
	if err := s.checkKey(); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", path, err), s.Close())
	}
	return s, nil
}

// ErrInUse: a key service runs on the store.
var ErrInUse = errors.New("another key service runs on it")

// Read opens the store at path for View alone, and changes nothing. Errors are Open's; one that is missing is
// fs.ErrNotExist.
func Read(path string, k MasterKey) (*Store, error) {
	s, err := open(path, k, &bbolt.Options{Timeout: time.Millisecond, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	err = s.View(context.Background(), func(r store.Reader) error {
		_, err := r.Get(bucketMeta, keyCanary)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", path, err), s.Close())
	}
	return s, nil
}

func open(path string, k MasterKey, o *bbolt.Options) (*Store, error) {
	o.OpenFile = openSecret
	var db *bbolt.DB
	err := guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, o)
		return err
	})
	if unreadable(err) {
		err = fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("store %s is in use: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	return &Store{db: db, seal: newSealer(k)}, nil
}

func openSecret(path string, flag int, perm os.FileMode) (*os.File, error) {
	return trusted.OpenFile(path, flag, perm, trusted.Secret)
}

// checkKey finds a wrong master key when the store is opened, not when the
// first key is asked for. Only an empty store is given a canary: whoever took it
// out of another altered the store.
func (s *Store) checkKey() error {
	return s.Update(context.Background(), func(w store.Writer) error {
		_, err := w.Get(bucketMeta, keyCanary)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err = w.Digests(func(string, string, store.Digest) error { return errors.New("its canary is missing: it was altered") })
		return errors.Join(err, w.Put(bucketMeta, keyCanary, []byte("sealbatch store v1")))
	})
}

// unreadable reports whether an error of bbolt.Open speaks of the file's content.
func unreadable(err error) bool {
	for _, e := range []error{berrors.ErrInvalid, berrors.ErrVersionMismatch, berrors.ErrChecksum} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err != nil && strings.Contains(err.Error(), "file size too small") // db.go, which has no name for it
}

// guarded runs fn, and makes bbolt's panics store.ErrDamaged: pages have no checksums, and bbolt believes them. It
// follows their numbers through mapped memory, also to where none is.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if !inBolt() {
				panic(r)
			}
			err = fmt.Errorf("%w: %v", store.ErrDamaged, r)
		}
	}()
	return fn()
}

// inBolt reports whether it is bbolt that panics, and not somebody whom it called.
func inBolt() bool {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(0, callers)])
	for panicking := false; ; {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicking = true
		case panicking && !strings.HasPrefix(f.Function, "runtime.") && !strings.HasPrefix(f.Function, "sort."):
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}

// Derive returns the key, 32 bytes, that serves a purpose outside of the store:
// HKDF-SHA256 of the master key.
func (s *Store) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.seal.master[:], nil, "sealbatch purpose v1\x00"+purpose, 32)
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// Home returns what a key store beside the records works with.
func (s *Store) Home(log *slog.Logger) store.Home {
	return store.Home{Records: s, Dir: filepath.Dir(s.db.Path()), Derive: s.seal.master.Derive, Log: log}
}

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.views.RLock()
	defer s.views.RUnlock()
	return guarded(func() error { return s.db.View(func(tx *bbolt.Tx) error { return fn(reader{tx, s.seal}) }) })
}

// Update implements store.Store. Once the file was found damaged, it fails with store.ErrDamaged for good.
func (s *Store) Update(ctx context.Context, fn func(store.Writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if was := s.broken.Load(); was != nil {
		return *was
	}
	err := guarded(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error { return fn(&writer{reader: reader{tx, s.seal}}) })
	})
	if errors.Is(err, store.ErrDamaged) {
		s.broken.Store(&err)
	}
	return err
}

type reader struct {
	tx   *bbolt.Tx
	seal *sealer
}

func (r reader) Get(bucket, key string) ([]byte, error) {
	b := r.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil, store.ErrNotFound
	}
	v := b.Get([]byte(key))
	if v == nil {
		return nil, store.ErrNotFound
	}
	return r.seal.open(bucket, key, v)
}

func (r reader) Each(bucket, prefix string, fn func(string, []byte) error) error {
	return r.EachAfter(bucket, prefix, "", fn)
}

func (r reader) EachAfter(bucket, prefix, after string, fn func(string, []byte) error) error {
	b := r.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	k, v := c.Seek([]byte(max(prefix, after)))
	if after != "" && string(k) == after {
		k, v = c.Next()
	}
	for ; k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		p, err := r.seal.open(bucket, string(k), v)
		if err != nil {
			return err
		}
		if err := fn(string(k), p); err != nil {
			return err
		}
	}
	return nil
}

// Digests implements store.Reader. What this package never makes, a bucket within
// a bucket or a value outside of any, counts as a record too.
func (r reader) Digests(fn func(bucket, key string, kept store.Digest) error) error {
	return r.tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if b == nil {
			return fn("", string(name), store.DigestOf(nil))
		}
		return b.ForEach(func(k, v []byte) error { return fn(string(name), string(k), store.DigestOf(v)) })
	})
}

type writer struct {
	reader
	changes []store.Change
}

func (w *writer) Changes() []store.Change { return w.changes }

// changed notes that the record that is kept as old becomes what has digest now.
func (w *writer) changed(bucket, key string, old []byte, now store.Digest) {
	c := store.Change{Bucket: bucket, Key: key, Now: now}
	if old != nil {
		c.Was = store.DigestOf(old)
	}
	w.changes = append(w.changes, c)
}

func (w *writer) Put(bucket, key string, value []byte) error {
	b, err := w.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("store bucket %s: %w", bucket, err)
	}
	v, err := w.seal.seal(bucket, key, value)
	if err != nil {
		return err
	}
	w.changed(bucket, key, b.Get([]byte(key)), store.DigestOf(v))
	return b.Put([]byte(key), v)
}

func (w *writer) Delete(bucket, key string) error {
	b := w.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	if old := b.Get([]byte(key)); old != nil {
		w.changed(bucket, key, old, store.Digest{})
	}
	return b.Delete([]byte(key))
}
