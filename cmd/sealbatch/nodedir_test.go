package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

// TestNodeDirectory: open, verify and inspect take a node's directory whose
// outputs were indexed as they take a sealed volume.
func TestNodeDirectory(t *testing.T) {
	t.Parallel()
	dir, id := indexedNodeDir(t)
	do := func(run func(context.Context, *app, []string) error, args ...string) (string, error) {
		var out, errOut bytes.Buffer
		err := run(t.Context(), &app{stdin: os.Stdin, stdout: &out, stderr: &errOut}, append([]string{"-i", id}, args...))
		return out.String() + errOut.String(), err
	}
	if out, err := do(runVerify, dir); err != nil || !strings.Contains(out, "every file is as it was sealed: 2 entries") {
		t.Errorf("verify: %s, %v", out, err)
	}
	if out, err := do(runInspect, dir); err != nil || !strings.Contains(out, "sub/file") {
		t.Errorf("inspect: %s, %v", out, err)
	}
	opened := filepath.Join(t.TempDir(), "opened")
	if out, err := do(runOpen, dir, "-o", opened); err != nil {
		t.Errorf("open: %s, %v", out, err)
	}
	if b, err := os.ReadFile(filepath.Join(opened, "sub", "file")); err != nil || string(b) != "content" {
		t.Errorf("opened: %q, %v", b, err)
	}
	added := filepath.Join(dir, jobdir.CipherDirName, "added")
	if err := os.WriteFile(added, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := do(runVerify, dir); !errors.Is(err, volume.ErrAdded) || classOf(err) != fault.Integrity ||
		!strings.Contains(out, "damaged: added") {
		t.Errorf("verify with an added file: %s, %v", out, err)
	}
	if _, err := do(runVerify, t.TempDir()); classOf(err) != fault.Usage || fault.Hint(err) == "" {
		t.Errorf("verify of any directory: %v", err)
	}
}

// indexedNodeDir makes a node's directory, and the identity that opens it.
func indexedNodeDir(t *testing.T) (dir, identity string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	base := t.TempDir()
	who, err := age.GenerateX25519Identity()
	check(err)
	identity, dir = filepath.Join(base, "id"), filepath.Join(base, "cn1")
	check(os.WriteFile(identity, []byte(who.String()+"\n"), 0o600))
	check(os.MkdirAll(filepath.Join(base, "src", "sub"), 0o700))
	check(os.WriteFile(filepath.Join(base, "src", "sub", "file"), []byte("content"), 0o600))
	var sealed, keys, index bytes.Buffer
	s, err := volume.Seal(t.Context(), &sealed, source.Dir(filepath.Join(base, "src")),
		volume.SealOptions{Recipients: []age.Recipient{who.Recipient()}})
	check(err)
	cipher := filepath.Join(dir, jobdir.CipherDirName)
	for tr := tar.NewReader(&sealed); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
		rel, ok := strings.CutPrefix(h.Name, "volume/")
		switch to := filepath.Join(cipher, rel); {
		case !ok:
		case h.Typeflag == tar.TypeDir:
			check(os.MkdirAll(to, 0o700))
		default:
			b, err := io.ReadAll(tr)
			check(err)
			check(os.WriteFile(to, b, 0o600))
		}
	}
	check(volume.WrapKey(&keys, s.ID, s.Key, who.Recipient()))
	c, err := volume.OpenCipherDir(cipher, s.Key)
	check(err)
	_, err = c.WriteIndex(t.Context(), &index, s.ID, volume.DirIndexOptions{})
	check(err)
	check(os.WriteFile(filepath.Join(dir, jobdir.KeysName), keys.Bytes(), 0o600))
	check(os.WriteFile(filepath.Join(dir, jobdir.IndexName), index.Bytes(), 0o600))
	return dir, identity
}
