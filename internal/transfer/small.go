package transfer

import (
	"bytes"
	"context"
	"io/fs"
)

// StageFile is Stage for a small file. What an earlier one left is removed.
func StageFile(ctx context.Context, fsys FS, name string, data []byte, mode fs.FileMode) error {
	_, err := Stage(ctx, fsys, bytes.NewReader(data), int64(len(data)), name, UploadOptions{Mode: mode, ReplacePartial: true})
	return err
}
