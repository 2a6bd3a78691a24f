package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestCipherDirIsChecked(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	other, full, short := fusetest.PrivateDir(t), fusetest.PrivateDir(t), fusetest.PrivateDir(t)
	if err := os.Chown(other, -1, fusetest.User+1); err != nil {
		t.Fatal(err)
	}
	fusetest.WriteFile(t, filepath.Join(full, "file"), []byte("x"), 0o600)
	fusetest.WriteFile(t, filepath.Join(short, dirIVName), []byte("x"), 0o600)
	for dir, want := range map[string]string{
		other:               ErrUnmappedGroup.Error(),
		full:                "neither empty nor a gocryptfs cipher directory",
		short:               "neither empty nor a gocryptfs cipher directory",
		"/proc/self/fdinfo": "",
	} {
		err := s.MountGocryptfs("out", openRoot(t, dir), newKey(t))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

// Whoever puts another directory in the place of the one that was opened gets
// nothing, neither before gocryptfs starts nor while it runs.
func TestCipherDirIsTheOneThatWasOpened(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	base := fusetest.PrivateDir(t)
	path, moved := filepath.Join(base, "cipher"), filepath.Join(base, "moved")
	exchange := func(from, to string) {
		t.Helper()
		if err := errors.Join(os.Rename(from, to), os.Mkdir(from, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, path)
	exchange(path, moved)
	if err := s.MountGocryptfs("out", root, newKey(t)); err != nil {
		t.Fatal(err)
	}
	exchange(moved, moved+"2")
	got, exit := shell(t, s, "", `mkdir "$1/d" && echo kept > "$1/d/file" && cat "$1/d/file"`, s.Path("out"))
	if got != "kept" {
		t.Fatalf("%q, %+v", got, exit)
	}
	for dir, want := range map[string]int{path: 0, moved: 0, moved + "2": 2} { // the directory, and gocryptfs.diriv
		if names, err := os.ReadDir(dir); err != nil || len(names) != want {
			t.Errorf("%s holds %v, %v; want %d", filepath.Base(dir), names, err, want)
		}
	}
}
