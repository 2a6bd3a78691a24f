package transfer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
)

// PutFile writes a small file in one step: under its name stands either what
// was there before or all of data.
func PutFile(ctx context.Context, fsys FS, name string, data []byte, mode fs.FileMode) error {
	_, err := Upload(ctx, fsys, bytes.NewReader(data), int64(len(data)), name, UploadOptions{Mode: mode, ReplacePartial: true})
	return err
}

// StageFile is PutFile but for the last step: renaming NAME.partial is left to the caller.
func StageFile(ctx context.Context, fsys FS, name string, data []byte, mode fs.FileMode) error {
	_, err := Stage(ctx, fsys, bytes.NewReader(data), int64(len(data)), name, UploadOptions{Mode: mode, ReplacePartial: true})
	return err
}

// maxDepth bounds how deeply RemoveAll descends.
const maxDepth = 64

// RemoveAll removes a directory of the caller's own with all that is in it.
// Symbolic links are removed, not followed. It goes on after an error and
// returns them all.
func RemoveAll(fsys FS, dir string) error { return removeAll(fsys, dir, maxDepth) }

func removeAll(fsys FS, dir string, depth int) error {
	if depth == 0 {
		return errors.New("directories are nested too deeply to remove: " + dir)
	}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if e.IsDir() {
			err = errors.Join(err, removeAll(fsys, p, depth-1))
		} else {
			err = errors.Join(err, fsys.Remove(p))
		}
	}
	return errors.Join(err, fsys.Remove(dir))
}
