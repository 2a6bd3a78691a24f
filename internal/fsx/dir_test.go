package fsx

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A Dir is the directory that was opened, even when another lies at its path.
func TestDirIsTheOneThatWasOpened(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	path, moved := filepath.Join(base, "dir"), filepath.Join(base, "moved")
	mkdirs(t, path)
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, filepath.Join(path, "tree"), filepath.Join(moved, "tree", "below"))
	d := Dir{root}
	err = errors.Join(d.WriteNew("new", []byte("new"), 0o600), d.Replace("replaced", []byte("old"), 0o600),
		d.Replace("replaced", []byte("replaced"), 0o600), d.Commit("new", "committed"), d.Sync(), d.RemoveTree("tree"))
	if err != nil {
		t.Fatal(err)
	}
	checkFile(t, filepath.Join(moved, "committed"), "new", 0o600)
	checkFile(t, filepath.Join(moved, "replaced"), "replaced", 0o600)
	if b, err := d.ReadRegular("committed", 3); err != nil || string(b) != "new" {
		t.Errorf("ReadRegular = %q, %v", b, err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("the directory in its place holds %v, %v", entries, err)
	}
	if entries, err := os.ReadDir(moved); err != nil || len(entries) != 2 {
		t.Errorf("it holds %v, %v", entries, err)
	}
}

func TestDirRefuses(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	path := filepath.Join(base, "dir")
	mkdirs(t, path, filepath.Join(path, "sub"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(base, "outside"), []byte("outside"), 0o600),
		os.Symlink("../outside", filepath.Join(path, "link")),
		os.WriteFile(filepath.Join(path, "file"), []byte("text"), 0o600),
		unix.Mkfifo(filepath.Join(path, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d := Dir{root}
	for name, want := range map[string]error{
		"sub": ErrNotRegular, "fifo": ErrNotRegular, "file": ErrTooLarge, "none": fs.ErrNotExist,
	} {
		if _, err := d.ReadRegular(name, 3); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if b, err := d.ReadRegular("link", 100); err == nil {
		t.Errorf("a link out of the directory was followed: %q", b)
	}
	if err := d.WriteNew("file", nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("WriteNew over a file: %v", err)
	}
}

func TestFDPath(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	path := filepath.Join(base, "dir")
	mkdirs(t, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(path, filepath.Join(base, "moved")); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, path, filepath.Join(base, "moved", "inside"))
	if entries, err := os.ReadDir(FDPath(f)); err != nil || len(entries) != 1 || entries[0].Name() != "inside" {
		t.Errorf("it leads to %v, %v", entries, err)
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
