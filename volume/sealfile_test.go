package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if _, err := SealFile(t.Context(), out, DirSource(in), opt); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	opt.Replace = true
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

// TestSealFileBesideOthers: what lies beside the output, whatever it is called, is somebody else's.
func TestSealFileBesideOthers(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	opt := SealOptions{Recipients: []age.Recipient{id.Recipient()}}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "out.partial"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
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
	if n, ok := r.Lookup(0, "out.partial"); !ok || r.Attr(n).Size != int64(len("precious")) {
		t.Errorf("sealed: %+v", r.Dirents(0))
	}
	if b, err := os.ReadFile(in); err != nil || string(b) != "precious" {
		t.Errorf("the input is %q, %v", b, err)
	}
	opt.Confirm = func(s Sealed) error { return fmt.Errorf("not %s: %w", s.ID, ErrChanged) }
	if _, err := SealFile(t.Context(), out+"2", DirSource(in), opt); !errors.Is(err, ErrChanged) {
		t.Errorf("not confirmed: %v", err)
	}
	if names, _ := filepath.Glob(dir + "/*"); len(names) != 2 {
		t.Errorf("left: %q", names)
	}
}
