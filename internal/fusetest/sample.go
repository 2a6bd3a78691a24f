package fusetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// Seal seals dir and returns the volume, open.
func Seal(t testing.TB, dir string) *volume.Reader {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opt := volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}}
	s, err := volume.Seal(context.Background(), f, source.Dir(dir), opt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := volume.OpenFile(file, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// WriteFile writes a file with perm, whatever the umask is.
func WriteFile(t testing.TB, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// SampleDir returns a directory with one of everything.
func SampleDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	WriteFile(t, filepath.Join(dir, "plain"), bytes.Repeat([]byte("0123456789"), 300_000), 0o640)
	WriteFile(t, filepath.Join(dir, "empty"), nil, 0o666)
	WriteFile(t, filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\necho ran\n"), 0o755)
	WriteFile(t, filepath.Join(dir, "not-\xff-utf8 \n"), []byte("odd"), 0o400)
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "sub"), 0o750),
		os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "sub", "again")),
		os.Symlink("sub/again", filepath.Join(dir, "link")),
		os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, time.Unix(1_000_000_007, 123)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Compare compares the tree at got with the directory at want. The latter belongs
// to whoever runs the tests, as the mount must.
func Compare(t *testing.T, want, got string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		compareFile(t, rel, path, filepath.Join(got, rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := 0
	err = filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error {
		list++
		return err
	})
	if err != nil || list != seen {
		t.Errorf("the mount holds %d entries (%v), want %d", list, err, seen)
	}
}

func compareFile(t *testing.T, rel, want, got string) {
	t.Helper()
	var w, g unix.Stat_t
	if err := errors.Join(unix.Lstat(want, &w), unix.Lstat(got, &g)); err != nil {
		t.Errorf("%q: %v", rel, err)
		return
	}
	if g.Mode != w.Mode || g.Nlink != w.Nlink || g.Mtim != w.Mtim || g.Uid != w.Uid || g.Gid != w.Gid {
		t.Errorf("%q: attributes %+v, want %+v", rel, g, w)
	}
	switch w.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		compareWhat(t, rel, want, got, os.ReadFile)
	case unix.S_IFLNK:
		compareWhat(t, rel, want, got, func(name string) ([]byte, error) {
			target, err := os.Readlink(name)
			return []byte(target), err
		})
	}
	if w.Mode&unix.S_IFMT != unix.S_IFDIR && g.Size != w.Size {
		t.Errorf("%q: size %d, want %d", rel, g.Size, w.Size)
	}
}

// compareWhat compares what is read of a file or link in both places.
func compareWhat(t *testing.T, rel, want, got string, read func(name string) ([]byte, error)) {
	t.Helper()
	w, err1 := read(want)
	g, err2 := read(got)
	if err1 != nil || err2 != nil || !bytes.Equal(w, g) {
		t.Errorf("%q: %d bytes %.80q differ from %d bytes %.80q (%v, %v)", rel, len(g), g, len(w), w, err1, err2)
	}
}
