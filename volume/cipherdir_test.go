package volume

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// newCipherDir makes what `gocryptfs -masterkey=stdin` needs to begin with.
func newCipherDir(t *testing.T) (string, Key) {
	t.Helper()
	key, err := NewKey()
	must(t, err)
	dir := filepath.Join(t.TempDir(), "cipher")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, dirIVName), randomBytes(dirIVSize), 0o400))
	return dir, key
}

// TestStockCipherDir reads what stock gocryptfs wrote.
func TestStockCipherDir(t *testing.T) {
	t.Parallel()
	tree := oddTree(t)
	for name, bin := range gocryptfsBinaries(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cipher, key := newCipherDir(t)
			mnt := t.TempDir()
			func() {
				mnt = mountGocryptfs(t, bin, cipher, key)
				// --sparse, so that gocryptfs has to make holes.
				out, err := exec.Command("cp", "-a", "--sparse=always", tree+"/.", mnt).CombinedOutput()
				if err != nil {
					t.Fatalf("cp: %v\n%s", err, out)
				}
				must(t, os.Remove(filepath.Join(mnt, "size-0")))
				must(t, os.WriteFile(filepath.Join(mnt, "size-0"), nil, 0o600))
			}()
			want := describe(t, mnt, false)
			out := filepath.Join(t.TempDir(), "out")
			must(t, ExtractCipherDir(context.Background(), cipher, key, out, ExtractOptions{}))
			got := describe(t, out, false)
			for path := range want {
				if want[path] != got[path] {
					t.Errorf("%.60q:\nwant %.200q\ngot  %.200q", path, want[path], got[path])
				}
			}
			if len(got) != len(want) || len(want) < 30 {
				t.Errorf("%d entries, want %d", len(got), len(want))
			}
			checkIndexed(t, cipher, key, want)
		})
	}
}

// unpackedTree returns a small cipher directory: a volume's, unpacked.
func unpackedTree(t *testing.T) (string, Key) {
	t.Helper()
	s, b := sealFixed(t, smallTree(), 9)
	return filepath.Join(unpack(t, b), treeName), s.Key
}

// cipherPath finds the cipher path of a plaintext path, one level at a time.
func cipherPath(t *testing.T, cipher string, key Key, path string) string {
	t.Helper()
	c, err := newCodec(key)
	must(t, err)
	for name := range strings.SplitSeq(path, "/") {
		iv, err := os.ReadFile(filepath.Join(cipher, dirIVName))
		must(t, err)
		entry, _ := c.cipherName(name, iv)
		cipher = filepath.Join(cipher, entry)
	}
	return cipher
}

// TestCipherDirDamage: each kind of damage ends the extraction with an error
// of its class, or is reported while the rest is saved.
func TestCipherDirDamage(t *testing.T) {
	t.Parallel()
	flip := func(path string, at int) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[at] ^= 1
		return os.WriteFile(path, b, 0o600)
	}
	cases := map[string]struct {
		damage func(file string) error
		want   error
		path   string
	}{
		"flipped header":     {func(f string) error { return flip(f, 5) }, ErrBlock, "dir/twin-1"},
		"header version":     {func(f string) error { return flip(f, 1) }, ErrBlock, "dir/twin-1"},
		"flipped block":      {func(f string) error { return flip(f, 4150) }, ErrBlock, "dir/twin-1"},
		"torn in the middle": {func(f string) error { return os.Truncate(f, 3000) }, ErrBlock, "dir/twin-1"},
		"torn in a nonce":    {func(f string) error { return os.Truncate(f, headerSize+cipherBlock+7) }, ErrSize, "dir/twin-1"},
		"torn in the header": {func(f string) error { return os.Truncate(f, 7) }, ErrSize, "dir/twin-1"},
		"a pipe": {func(f string) error {
			return errors.Join(os.Remove(f), syscall.Mkfifo(f, 0o600))
		}, ErrSpecial, "dir/twin-1"},
		"an unencrypted name": {func(f string) error {
			return os.Rename(f, filepath.Join(filepath.Dir(f), "plain"))
		}, ErrName, "dir/plain"},
		"a plain symbolic link": {func(f string) error {
			return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f))
		}, ErrBlock, "dir/twin-1"},
		"diriv gone": {func(f string) error { return os.Remove(filepath.Join(filepath.Dir(f), dirIVName)) }, ErrName, "dir"},
		"diriv zeroed": {func(f string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(f), dirIVName), make([]byte, 16), 0o400)
		}, ErrName, "dir"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cipher, key := unpackedTree(t)
			must(t, c.damage(cipherPath(t, cipher, key, "dir/twin-1")))
			out := filepath.Join(t.TempDir(), "out")
			ctx := context.Background()
			if err := ExtractCipherDir(ctx, cipher, key, out, ExtractOptions{}); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			var damaged []string
			must(t, ExtractCipherDir(ctx, cipher, key, out, ExtractOptions{Damaged: func(path string, err error) {
				if !errors.Is(err, c.want) {
					t.Errorf("%s: got %v, want %v", path, err, c.want)
				}
				damaged = append(damaged, path)
			}}))
			if !slices.Contains(damaged, c.path) {
				t.Errorf("damaged: %q", damaged)
			}
			if b, err := os.ReadFile(filepath.Join(out, "a")); err != nil || string(b) != smallTree().content["a"] {
				t.Errorf("the rest was not saved: %q, %v", b, err)
			}
		})
	}
}

// TestCipherDirLinkOutside: a link in place of a cipher file is not followed out
// of the directory.
func TestCipherDirLinkOutside(t *testing.T) {
	t.Parallel()
	cipher, key := unpackedTree(t)
	iv := filepath.Join(filepath.Dir(cipherPath(t, cipher, key, "dir/twin-1")), dirIVName)
	outside := filepath.Join(t.TempDir(), "iv")
	must(t, errors.Join(os.Rename(iv, outside), os.Symlink(outside, iv)))
	err := ExtractCipherDir(context.Background(), cipher, key, filepath.Join(t.TempDir(), "out"), ExtractOptions{})
	if err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("got %v", err)
	}
}

func TestCipherDirLongNames(t *testing.T) {
	t.Parallel()
	cipher, key := unpackedTree(t)
	long := cipherPath(t, cipher, key, "dir/"+strings.Repeat("long", 50))
	other := cipherPath(t, cipher, key, "a")
	for name, content := range map[string]string{"a short name": filepath.Base(other), "empty": "", "too long": strings.Repeat("A", 345)} {
		must(t, os.Chmod(long+longSuffix, 0o600))
		must(t, os.WriteFile(long+longSuffix, []byte(content), 0o600))
		err := ExtractCipherDir(context.Background(), cipher, key, filepath.Join(t.TempDir(), "out"), ExtractOptions{})
		if !errors.Is(err, ErrName) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Remove(long+longSuffix))
	err := ExtractCipherDir(context.Background(), cipher, key, filepath.Join(t.TempDir(), "out"), ExtractOptions{})
	if !errors.Is(err, ErrName) {
		t.Errorf("missing: %v", err)
	}
}

// TestCipherDirJustMade: who makes a directory may be killed before its diriv is
// written. Nothing is in it, and that is what opens.
func TestCipherDirJustMade(t *testing.T) {
	t.Parallel()
	for name, made := range map[string]func(dir string) error{
		"no diriv":     func(string) error { return nil },
		"half a diriv": func(dir string) error { return os.WriteFile(filepath.Join(dir, dirIVName), make([]byte, 7), 0o400) },
	} {
		_, key := newCipherDir(t)
		top := t.TempDir()
		must(t, made(top))
		out := filepath.Join(t.TempDir(), "out")
		must(t, ExtractCipherDir(t.Context(), top, key, out, ExtractOptions{}))
		if names, err := os.ReadDir(out); err != nil || len(names) != 0 {
			t.Errorf("%s, of the whole: %v, %v", name, names, err)
		}
		cipher, key := unpackedTree(t)
		sub := cipherPath(t, cipher, key, "newborn")
		must(t, errors.Join(os.Mkdir(sub, 0o700), made(sub)))
		out = filepath.Join(t.TempDir(), "out")
		must(t, ExtractCipherDir(t.Context(), cipher, key, out, ExtractOptions{}))
		if names, err := os.ReadDir(filepath.Join(out, "newborn")); err != nil || len(names) != 0 {
			t.Errorf("%s, of a directory inside: %v, %v", name, names, err)
		}
	}
}

func TestOpenCipherDirRefuses(t *testing.T) {
	t.Parallel()
	cipher, key := newCipherDir(t)
	plain := t.TempDir()
	must(t, os.WriteFile(filepath.Join(plain, "name"), nil, 0o600))
	if _, err := OpenCipherDir(plain, key); !errors.Is(err, ErrPath) {
		t.Errorf("no cipher directory: %v", err)
	}
	if _, err := OpenCipherDir(cipher, Key{}); !errors.Is(err, ErrKey) {
		t.Errorf("no key: %v", err)
	}
}
