package transfer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPutFileReplaces(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "x")
	for _, text := range []string{"one", "a longer second text", ""} {
		if err := PutFile(t.Context(), Local{}, p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if err != nil || string(b) != text {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if left, _ := filepath.Glob(p + "?*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRemoveAllDoesNotFollowLinks(t *testing.T) {
	t.Parallel()
	keep := t.TempDir()
	dir := filepath.Join(t.TempDir(), "d")
	for _, d := range []string{dir, filepath.Join(dir, "sub")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(keep, "kept"), filepath.Join(dir, "sub", "f")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(keep, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(Local{}, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("directory is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(keep, "kept")); err != nil {
		t.Errorf("followed a link: %v", err)
	}
}
