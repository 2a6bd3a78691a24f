package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// SealFile seals src into the file at path, mode 0600. The volume is written
// as path.partial, made durable, and renamed when it is complete, replacing
// what had the name; on failure path is as it was, and path.partial is removed.
func SealFile(ctx context.Context, path string, src Source, opt SealOptions) (s Sealed, err error) {
	partial := path + PartialSuffix
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			s.Key.Wipe()
			os.Remove(partial)
		}
	}()
	s, err = SealSource(ctx, f, src, opt)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return s, err
	}
	if err := os.Rename(partial, path); err != nil {
		return s, err
	}
	return s, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
