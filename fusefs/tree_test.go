package fusefs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/volume"
)

// sealed seals dir and opens the result.
func sealed(t testing.TB, dir string) *volume.Reader {
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
	s, err := volume.Seal(context.Background(), f, dir, volume.SealOptions{Recipients: []age.Recipient{id.Recipient()}})
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

func write(t testing.TB, path string, data []byte, perm os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// sampleDir is a directory with one of everything.
func sampleDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plain"), bytes.Repeat([]byte("0123456789"), 300_000), 0o640)
	write(t, filepath.Join(dir, "empty"), nil, 0o666)
	write(t, filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\necho ran\n"), 0o755)
	write(t, filepath.Join(dir, "not-\xff-utf8 \n"), []byte("odd"), 0o400)
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

func TestSpaceServesTree(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := sampleDir(t)
	if err := s.MountTree("in/sample", sealed(t, dir)); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "", `cd "$1" || exit; cmp plain "$2/plain" && cmp link "$2/plain" && ./run.sh && ls -q | wc -l`,
		s.Path("in/sample"), dir)
	if got != "ran\n6" || exit.Code != 0 {
		t.Fatalf("output %q, %+v", got, exit)
	}
}
