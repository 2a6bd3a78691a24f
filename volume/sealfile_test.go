package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"filippo.io/age"
)

func TestSealFile(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	opt := SealOptions{Recipients: []age.Recipient{id.Recipient()}}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out.sealed")
	if err := os.WriteFile(in, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte("what was there before"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := SealFile(ctx, out, DirSource(in), opt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "what was there before" {
		t.Errorf("a failed seal changed the file: %q, %v", b, err)
	}
	s, err := SealFile(t.Context(), out, DirSource(in), opt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenFile(out, s.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 || st.Size() != s.Size {
		t.Errorf("sealed file: %v, %v", st, err)
	}
	if left, _ := filepath.Glob(out + "?*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestSealFileObstacles: what lies at the temporary name is never followed, and a live writer not disturbed.
func TestSealFileObstacles(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	opt := SealOptions{Recipients: []age.Recipient{id.Recipient()}}
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		put  func(victim, at string) error
		want error
	}{
		"symbolic link": {os.Symlink, ErrPath},
		"dangling link": {func(victim, at string) error { return os.Symlink(victim+"-none", at) }, ErrPath},
		"hard link":     {os.Link, ErrPath},
		"named pipe":    {func(_, at string) error { return syscall.Mkfifo(at, 0o600) }, nil},
		"directory":     {func(_, at string) error { return os.Mkdir(at, 0o700) }, nil},
		"another's file": {func(_, at string) error {
			return errors.Join(os.WriteFile(at, []byte("x"), 0o666), os.Chown(at, 12345, 12345))
		}, ErrPath},
		"a live writer": {func(_, at string) error {
			f, err := os.Create(at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
			return syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}, ErrBusy},
	} {
		dir := t.TempDir()
		victim, out := filepath.Join(dir, "victim"), filepath.Join(dir, "out")
		if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), c.put(victim, out+PartialSuffix)); err != nil {
			t.Fatal(err)
		}
		if _, err := SealFile(t.Context(), out, DirSource(in), opt); err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
			t.Errorf("%s: the file behind it now holds %q, %v", name, b, err)
		}
		if _, err := os.Lstat(out); err == nil {
			t.Errorf("%s: something has the final name", name)
		}
	}
	// What a killed writer left is taken over.
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out+PartialSuffix, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := SealFile(t.Context(), out, DirSource(in), opt)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(out); err != nil || st.Size() != s.Size {
		t.Errorf("taken over: %v, %v", st, err)
	}
}
