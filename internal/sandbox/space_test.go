package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestSpaceRunsCommandsOnGocryptfs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher := mountOutput(t, s, "out")
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	got, exit := shell(t, s, "out", `echo hello > "$1"/file && cat "$1"/file; exit 3`, s.Path("out"))
	if got != "hello" || exit != (Exit{Code: 3}) {
		t.Fatalf("output %q, %+v", got, exit)
	}
	seen, err := os.ReadFile(filepath.Join(s.Outside("out"), "file"))
	if err != nil || string(seen) != "hello\n" {
		t.Fatalf("from outside: %q, %v", seen, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(cipher)
	if err != nil || len(names) != 3 { // diriv, file, captured output
		t.Fatalf("cipher directory: %v, %v", names, err)
	}
	if found := grep(t, cipher, "hello"); found != "" {
		t.Fatalf("%s holds plaintext", found)
	}
}

// grep returns the first file below dir that contains text.
func grep(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	if err := s.Mkdir("a/b", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile("a/b/script", []byte("#!/bin/sh\necho yes\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := s.Start(Cmd{Argv: []string{s.Path("a/b/script")}, Stdout: s.Path("a/out")})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if fi, err := os.Stat(s.Outside("a/out")); err != nil || fi.Mode() != 0o600 || fi.Size() != 4 {
		t.Errorf("output: %v, %v", fi, err)
	}
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Mkdir":     s.Mkdir("c", 0o700),
		"WriteFile": s.WriteFile("a/b/script", nil, 0o600),
		"outside":   os.WriteFile(s.Outside("a/x"), nil, 0o600),
		"mount":     s.MountTree("new", &fusetest.Tree{}),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s after Freeze: %v", name, err)
		}
	}
	for _, rel := range []string{"", ".", "..", "../x", "/etc/x", "a/../../x"} {
		if err := s.Mkdir(rel, 0o700); err == nil || !strings.Contains(err.Error(), "not a path below") {
			t.Errorf("Mkdir(%q): %v", rel, err)
		}
	}
}

func TestTmpfsIsBounded(t *testing.T) {
	t.Parallel()
	s, err := NewSpace(context.Background(), SpaceOptions{Dir: fusetest.PrivateDir(t), TmpfsBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.WriteFile("big", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB in a tmpfs of 1 MiB: %v", err)
	}
}

func TestSpaceInSharedMemory(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/dev/shm", "sandbox-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	s, err := NewSpace(context.Background(), SpaceOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.MountTree("tree", &fusetest.Tree{}); err != nil {
		t.Fatal(err)
	}
	if got, exit := shell(t, s, "", `stat -f -c %T "$1" && ls -A /dev/shm | wc -l`, s.Path("tree")); got != "fuseblk\n1" && got != "fuse\n1" {
		t.Errorf("%q, %+v", got, exit)
	}
}

func TestUnmountAndMountAgain(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	cipher, key := openRoot(t, fusetest.PrivateDir(t)), newKey(t)
	for _, want := range []string{"", "kept\n"} {
		if err := s.MountGocryptfs("out", cipher, key); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(s.Outside("out/file"))
		if want == "" && !errors.Is(err, os.ErrNotExist) || want != "" && err != nil || string(got) != want {
			t.Errorf("read %q, %v", got, err)
		}
		if got, exit := shell(t, s, "", `echo kept > "$1"/file`, s.Path("out")); exit.Code != 0 {
			t.Fatal(got)
		}
		if err := s.Unmount("out"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unmount("out"); err == nil {
		t.Error("unmounted twice")
	}
	if err := s.MountGocryptfs("out", cipher, newKey(t)); err != nil {
		t.Fatal(err) // gocryptfs cannot know the key; its files say so
	}
	if got, err := os.ReadFile(s.Outside("out/file")); err == nil {
		t.Errorf("another key reads %q", got)
	}
}

func TestUnmountOfABusyMountFails(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	mountOutput(t, s, "out")
	p, err := s.Start(Cmd{Argv: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: s.Path("out")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("out"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("busy: %v", err)
	}
	if err := s.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("out"); err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestPrivateDirectoryIsRequired(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, "/no/such", "/etc/passwd"} {
		if s, err := NewSpace(context.Background(), SpaceOptions{Dir: dir}); err == nil {
			s.Close()
			t.Errorf("a space at %s", dir)
		}
	}
}
