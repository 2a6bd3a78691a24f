package transfer

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// TestWriteNewReplacesNothing: not a file, and not what a link leads to; and nothing is removed.
func TestWriteNewReplacesNothing(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		dir := t.TempDir()
		writeFile(t, dir+"/kept", "kept")
		if err := os.Symlink("kept", dir+"/link"); err != nil {
			t.Fatal(err)
		}
		write := func(name string) error {
			return WriteNew(t.Context(), fsys, strings.NewReader("new"), 3, dir+name, UploadOptions{Mode: 0o700})
		}
		for _, name := range []string{"/kept", "/link"} {
			if err := write(name); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if b, err := os.ReadFile(dir + "/link"); string(b) != "kept" {
			t.Errorf("%q, %v", b, err)
		}
		if err := write("/new"); err != nil {
			t.Error(err)
		}
		info, err := os.Lstat(dir + "/new")
		if err != nil || info.Mode() != 0o700 || info.Size() != 3 {
			t.Errorf("%v, %v", info, err)
		}
	})
}
