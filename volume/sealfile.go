package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// SealFile seals src into the file at path, mode 0600. The volume is written
// as path.partial, made durable, and renamed when it is complete, replacing
// what had the name; on failure path is as it was, and path.partial is removed.
// ErrBusy if another process writes path.partial, ErrPath if something else
// than a file of the caller's own lies there.
func SealFile(ctx context.Context, path string, src Source, opt SealOptions) (s Sealed, err error) {
	partial := path + PartialSuffix
	f, err := openPartial(partial)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			s.Key.Wipe()
			os.Remove(partial)
		}
	}()
	s, err = Seal(ctx, f, src, opt)
	err = errors.Join(err, f.Sync())
	if err == nil {
		err = os.Rename(partial, path) // under the lock, so that it is this file
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return s, err
	}
	return s, fsx.SyncDir(filepath.Dir(path))
}

// openPartial opens a new file, or takes over what a killed process left, and
// locks it. A link that somebody put there is not followed, and nothing is cut
// off before the file is known to be one's own.
func openPartial(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %q is a symbolic link, which somebody may have put there: remove it", ErrPath, path)
	}
	if err != nil {
		return nil, err
	}
	if err := own(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Truncate(0), f.Chmod(0o600)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func own(f *os.File, path string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st := statOf(fi)
	if !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || st.Nlink > 1 {
		return fmt.Errorf("%w: %q is there and is not a file of your own: remove it, or choose another name", ErrPath, path)
	}
	if err := fsx.TryLock(f); err != nil {
		return fmt.Errorf("%q: %w", path, ErrBusy)
	}
	// Between opening and locking, its writer may have finished and renamed it.
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(fi, now) {
		return fmt.Errorf("%q: %w", path, ErrBusy)
	}
	return err
}
