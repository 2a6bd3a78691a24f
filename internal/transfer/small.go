package transfer

import (
	"bytes"
	"context"
	"io/fs"
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
