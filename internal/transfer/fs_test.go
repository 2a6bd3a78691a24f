package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bothFS runs a test on a real SFTP server and on the local file system: they must behave alike.
func bothFS(t *testing.T, test func(t *testing.T, fsys FS)) {
	t.Run("sftp", func(t *testing.T) {
		t.Parallel()
		fsys, err := dial(t, newServer(t, []string{"ed25519"})).FS()
		if err != nil {
			t.Fatal(err)
		}
		test(t, fsys)
	})
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, Local{})
	})
}

func TestFS(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		dir := t.TempDir() + "/it's $(a) dir"
		if err := fsys.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Mkdir twice: %v", err)
		}
		if info, err := fsys.Stat(dir); err != nil || info.Mode() != fs.ModeDir|0o700 {
			t.Errorf("made %v, %v", info, err)
		}
		f, err := fsys.Create(dir+"/b", 0o640)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadFrom(strings.NewReader("hello")); err != nil {
			t.Error(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Error(err)
		}
		if err := os.Symlink("b", dir+"/a"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"/a", "/b"} {
			if _, err := fsys.Create(dir+name, 0o600); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Create over %s: %v", name, err)
			}
		}
		if info, err := fsys.Lstat(dir + "/a"); err != nil || info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("Lstat: %v, %v", info, err)
		}
		if info, err := fsys.Stat(dir + "/a"); err != nil || info.Mode() != 0o640 || info.Size() != 5 {
			t.Errorf("Stat: %v, %v", info, err)
		}
		if real, err := fsys.RealPath(dir + "/a"); err != nil || real != dir+"/b" {
			t.Errorf("RealPath: %q, %v", real, err)
		}
		var names []string
		entries, err := fsys.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if err != nil || !reflect.DeepEqual(names, []string{"a", "b"}) {
			t.Errorf("ReadDir: %q, %v", names, err)
		}
		testContents(t, fsys, dir)
	})
}

// testContents reads and removes what TestFS made in dir.
func testContents(t *testing.T, fsys FS, dir string) {
	t.Helper()
	writeFile(t, dir+"/c", "old")
	if err := fsys.Rename(dir+"/b", dir+"/c"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Rename over what is there: %v", err)
	}
	if err := fsys.Rename(dir+"/none", dir+"/d"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rename of nothing: %v", err)
	}
	if err := errors.Join(fsys.Remove(dir+"/c"), fsys.Rename(dir+"/b", dir+"/c")); err != nil {
		t.Error(err)
	}
	if got, err := ReadFile(fsys, dir+"/c", 5); err != nil || string(got) != "hello" {
		t.Errorf("ReadFile: %q, %v", got, err)
	}
	if _, err := ReadFile(fsys, dir+"/c", 4); err == nil || !strings.Contains(err.Error(), "larger than 4") {
		t.Errorf("ReadFile of too much: %v", err)
	}
	if err := errors.Join(unix.Mkfifo(dir+"/pipe", 0o600), os.Symlink("pipe", dir+"/to")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, dir + "/pipe", dir + "/to"} {
		if _, err := ReadFile(fsys, p, 100); !errors.Is(err, ErrNotRegular) {
			t.Errorf("ReadFile of %s: %v", p, err)
		}
		if _, err := fsys.Open(p); !errors.Is(err, ErrNotRegular) {
			t.Errorf("Open of %s: %v", p, err)
		}
	}
	if err := errors.Join(fsys.Remove(dir+"/pipe"), fsys.Remove(dir+"/to")); err != nil {
		t.Error(err)
	}
	for _, err := range []error{fsys.Remove(dir + "/none"), second(fsys.Stat(dir + "/none")),
		second(fsys.Open(dir + "/none")), second(fsys.ReadDir(dir + "/none"))} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something that does not exist: %v", err)
		}
	}
	if err := errors.Join(fsys.Remove(dir+"/a"), fsys.Remove(dir+"/c"), fsys.Remove(dir)); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestRun(t *testing.T) {
	t.Parallel()
	type runner interface {
		Run(context.Context, []string, io.Reader) ([]byte, []byte, int, error)
	}
	test := func(t *testing.T, r runner) {
		words := []string{"a b", "it's", "$(touch x)", "`y`", "", "*", "-n", `\`, "a\nb"}
		out, _, _, err := r.Run(t.Context(), append([]string{"printf", `%s|`}, words...), nil)
		if want := strings.Join(words, "|") + "|"; err != nil || string(out) != want {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
		out, errOut, code, err := r.Run(t.Context(), []string{"sh", "-c", "cat; echo no >&2; exit 3"}, strings.NewReader("in"))
		if string(out) != "in" || string(errOut) != "no\n" || code != 3 || err != nil {
			t.Errorf("got %q, %q, %d, %v", out, errOut, code, err)
		}
		if _, _, _, err := r.Run(t.Context(), []string{"sh", "-c", "kill -9 $$"}, nil); err == nil {
			t.Error("a command that was killed gave no error")
		}
		if _, _, _, err := r.Run(t.Context(), []string{"head", "-c", fmt.Sprint(maxOutput + 1), "/dev/zero"}, nil); !errors.Is(err, errOutput) {
			t.Errorf("too much output: %v", err)
		}
		if _, _, _, err := r.Run(t.Context(), nil, nil); err == nil {
			t.Error("ran nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, _, _, err := r.Run(ctx, []string{"sleep", "60"}, nil); !errors.Is(err, context.DeadlineExceeded) ||
			time.Since(begin) > 20*time.Second {
			t.Errorf("cancelled: %v after %v", err, time.Since(begin))
		}
	}
	t.Run("ssh", func(t *testing.T) {
		t.Parallel()
		test(t, dial(t, newServer(t, []string{"ed25519"})))
	})
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, Local{})
	})
}

func TestCheckAncestors(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		dir := t.TempDir()
		deep := dir + "/group/private"
		if err := os.MkdirAll(deep, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(deep, dir+"/link"); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir+"/group", 0o770|fs.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{deep, dir + "/link"} {
			notes, err := CheckAncestors(fsys, p)
			if err != nil || len(notes) != 1 || !strings.HasPrefix(notes[0], "site:"+dir+"/group can be changed by its group (gid ") {
				t.Errorf("%s: %q, %v", p, notes, err)
			}
		}
		for mode, refused := range map[fs.FileMode]bool{0o777: true, 0o777 | fs.ModeSticky: false, 0o702: true} {
			if err := os.Chmod(dir+"/group", mode); err != nil {
				t.Fatal(err)
			}
			if _, err := CheckAncestors(fsys, dir+"/link"); errors.Is(err, ErrAncestor) != refused {
				t.Errorf("mode %v: %v", mode, err)
			}
		}
		if _, err := CheckAncestors(fsys, dir+"/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("nothing there: %v", err)
		}
	})
}
