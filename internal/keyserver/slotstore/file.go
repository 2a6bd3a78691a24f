package slotstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// file is what a Store does with an *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// The record that names the file, by its id.
const (
	bucketMeta = "meta"
	keyFile    = "key-slots"
)

func offset(n int) int64 { return headerSize + int64(n)*slotSize }

// openFile opens the file that the records name, locked, and returns its header.
// If they name none this is the first start, and it is made.
func openFile(ctx context.Context, records store.Store, path string, key []byte) (*os.File, *sealer, error) {
	var named []byte
	err := records.View(ctx, func(r store.Reader) (err error) {
		named, err = r.Get(bucketMeta, keyFile)
		return err
	})
	first := errors.Is(err, store.ErrNotFound)
	if err != nil && !first {
		return nil, nil, err
	}
	if first {
		if err := create(path, key); err != nil {
			return nil, nil, err
		}
	}
	f, s, err := openNamed(path, key)
	if err != nil {
		return nil, nil, err
	}
	id := []byte(hex.EncodeToString(s.id[:]))
	switch {
	case first:
		err = records.Update(ctx, func(w store.Writer) error { return w.Put(bucketMeta, keyFile, id) })
	case !bytes.Equal(named, id):
		err = errors.New("the file belongs to another store: data directory and key file must be of one key service")
	}
	if err != nil {
		return nil, nil, errors.Join(err, fsx.Unlock(f))
	}
	return f, s, nil
}

// create makes a file without slots. One that is there was made by a first start
// that died before the records named it; with keys in it, it is another's.
func create(path string, key []byte) error {
	switch st, err := os.Lstat(path); {
	case err == nil && st.Size() == headerSize:
		return nil
	case err == nil:
		return errors.New("the file exists, and the store knows of none: data directory and key file must be of one key service")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	var id [idLen]byte
	rand.Read(id[:]) // never fails
	s, err := newSealer(key, id)
	if err != nil {
		return err
	}
	return fsx.Replace(path, s.header(), 0o600)
}

func openNamed(path string, key []byte) (*os.File, *sealer, error) {
	f, err := trusted.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0, trusted.Secret)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, store.ErrMissing
	}
	if err != nil {
		return nil, nil, err
	}
	s, err := checkFile(f, key)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, s, nil
}

// CheckHeader reports whether f is a file of slots under the master key that derive belongs to, and changes nothing.
func CheckHeader(f io.ReaderAt, derive func(purpose string) ([]byte, error)) error {
	key, err := derive(purposeSlots)
	if err != nil {
		return err
	}
	defer clear(key)
	_, err = readHeader(f, key)
	return err
}

func checkFile(f *os.File, key []byte) (*sealer, error) {
	if err := fsx.TryLock(f); errors.Is(err, fsx.ErrLocked) {
		return nil, errors.New("the file is in use: another key service runs on it")
	} else if err != nil {
		return nil, err
	}
	return readHeader(f, key)
}

func readHeader(f io.ReaderAt, key []byte) (*sealer, error) {
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends early", store.ErrDamaged)
	} else if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return openHeader(key, b)
}

// load reads all slots. Those that do not open are wiped: a crash tore them
// before their key was acknowledged, or they were altered.
func load(f *os.File, head *sealer, log *slog.Logger) (*Store, error) {
	s := &Store{f: locked{f}, seal: head, log: log, at: map[volumeID]int{}}
	in := bufio.NewReaderSize(io.NewSectionReader(f, headerSize, 1<<62), 1<<20)
	empty, slot := make([]byte, slotSize), make([]byte, slotSize)
	for ; ; s.slots++ {
		_, err := io.ReadFull(in, slot)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) { // growing was cut short
			break
		}
		if err != nil {
			return nil, fmt.Errorf("slot %d: %w", s.slots, err)
		}
		if bytes.Equal(slot, empty) {
			s.free = append(s.free, s.slots)
			continue
		}
		v, key, err := head.open(s.slots, slot)
		clear(key)
		if _, twice := s.at[v]; err != nil || twice {
			log.Warn("a slot holds no key that opens, and is wiped", "slot", s.slots, "volume", hex.EncodeToString(v[:]))
			s.spoilt = append(s.spoilt, s.slots)
			continue
		}
		s.at[v] = s.slots
	}
	return s, s.wipe()
}

// write writes a slot, durably.
func (s *Store) write(n int, slot []byte) error {
	if _, err := s.f.WriteAt(slot, offset(n)); err != nil {
		return fmt.Errorf("slot %d: %w", n, err)
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("slot %d: %w", n, err)
	}
	return nil
}

// grow appends free slots. What a failed attempt left is written over.
func (s *Store) grow() error {
	if _, err := s.f.WriteAt(make([]byte, growth*slotSize), offset(s.slots)); err != nil {
		return fmt.Errorf("more slots: %w", err)
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("more slots: %w", err)
	}
	for n := s.slots + growth - 1; n >= s.slots; n-- { // the first is taken first
		s.free = append(s.free, n)
	}
	s.slots += growth
	return nil
}

// locked gives up the lock when it is closed.
type locked struct{ *os.File }

func (l locked) Close() error { return fsx.Unlock(l.File) }

// copying are file systems that write elsewhere than what they replace, or may
// keep what was there for snapshots, by their magic numbers (linux/magic.h; ZFS
// on Linux, bcachefs), and those of which that cannot be known from here.
var copying = map[int64]string{
	unix.BTRFS_SUPER_MAGIC: "btrfs", 0x2fc12fc1: "zfs", int64(unix.BCACHEFS_SUPER_MAGIC): "bcachefs",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.NILFS_SUPER_MAGIC: "nilfs2", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", int64(unix.CIFS_SUPER_MAGIC): "cifs", int64(unix.SMB2_SUPER_MAGIC): "smb",
}

// InPlace reports whether the file system below a path overwrites in place, as
// far as its type says; otherwise it returns its name. What a disk, a logical volume's
// snapshots or a hypervisor do below it cannot be seen from here.
func InPlace(path string) (name string, ok bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err.Error(), false
	}
	name, bad := copying[int64(st.Type)]
	return name, !bad
}
