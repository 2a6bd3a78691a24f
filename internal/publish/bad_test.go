package publish

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// nothingPublished fails if anything is on the site or at the key service.
func (s *setting) nothingPublished(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.r.DirAtRest)
	if err != nil || len(entries) > 0 {
		t.Errorf("on the site: %v, %v", entries, err)
	}
	if all := keyservertest.Secrets(t, s.service.Client(t, s.d.Signer)); len(all) > 0 {
		t.Errorf("deposited: %+v", all)
	}
}

// TestChangingInput changes files while others are sealed: before, while and after they are read.
func TestChangingInput(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"read already":  func(dir string) error { return os.WriteFile(dir+"/a", []byte("another"), 0o600) },
		"being read":    func(dir string) error { return os.Truncate(dir+"/b", 10) },
		"to come":       func(dir string) error { return os.WriteFile(dir+"/c", []byte("longer than before"), 0o600) },
		"vanished":      func(dir string) error { return os.Remove(dir + "/c") },
		"moved away":    func(dir string) error { return os.Rename(dir+"/a", dir+"/z") },
		"new":           func(dir string) error { return os.WriteFile(dir+"/d", nil, 0o600) },
		"only the mode": func(dir string) error { return os.Chmod(dir+"/a", 0o640) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			dir := filepath.Join(t.TempDir(), "in")
			err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/a", []byte("a"), 0o600),
				os.WriteFile(dir+"/b", make([]byte, 8<<20), 0o600), os.WriteFile(dir+"/c", []byte("c"), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			s.r.Input = &changing{Input: source.At(dir), change: func() error { return change(dir) }}
			p := s.publishing(t)
			_, err = p.seal(t.Context())
			if !errors.Is(err, volume.ErrChanged) || strings.Contains(err.Error(), "no such file") ||
				strings.Contains(err.Error(), "vanished") != (name == "vanished") ||
				!strings.Contains(fault.Hint(err), "run the same command again") || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v; hint: %s", err, fault.Hint(err))
			}
			if left, _ := filepath.Glob(s.r.SealedPath + "*"); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			s.nothingPublished(t) // although the upload had begun
		})
	}
}

// changing changes the input when the first byte of b is read.
type changing struct {
	source.Input
	change func() error
}

func (c *changing) Walk(ctx context.Context, emit func(volume.Entry) (uint32, error)) error {
	return c.Input.Walk(ctx, func(e volume.Entry) (uint32, error) {
		if open := e.Open; e.Name == "b" && open != nil {
			e.Open = func() (io.ReadCloser, error) {
				r, err := open()
				return r, errors.Join(err, c.change())
			}
		}
		return emit(e)
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want, hint string
		code       fault.Class
		change     func(s *setting, dir string) error
	}{
		"pipe": {"not a regular file", "move the others out", fault.Other,
			func(_ *setting, dir string) error { return syscall.Mkfifo(dir+"/p", 0o600) }},
		"no such input": {"no such file", "", fault.Other, func(s *setting, dir string) error { return os.RemoveAll(dir) }},
		"long name": {"endings such as .info.yaml", "", fault.Usage, func(s *setting, dir string) error {
			s.r.SealedPath = filepath.Join(filepath.Dir(s.r.SealedPath), strings.Repeat("n", 240))
			return nil
		}},
		"name with a line end": {"clean absolute path", "", fault.Usage,
			func(s *setting, _ string) error { s.r.SealedPath += "\nx"; return nil }},
		"name that is no text": {"clean absolute path", "", fault.Usage,
			func(s *setting, _ string) error { s.r.SealedPath += "\xff"; return nil }},
		"link in the way": {"is a symbolic link", "name what it leads to", fault.Usage, func(s *setting, dir string) error {
			return os.Symlink("nowhere", s.r.SealedPath)
		}},
		"a file in the way": {"d.sealed exists", "--force", fault.Usage, func(s *setting, dir string) error {
			return os.WriteFile(s.r.SealedPath, []byte("precious"), 0o600)
		}},
		"the input itself": {"is the same file as the input", "another name", fault.Usage, func(s *setting, dir string) error {
			s.r.Input, s.r.Force = source.At(dir+"/a"), true
			return os.Link(dir+"/a", s.r.SealedPath)
		}},
		"a directory in the way": {"is a directory", "", fault.Usage,
			func(s *setting, dir string) error { return os.Mkdir(s.r.SealedPath, 0o700) }},
		"no directory for the output": {"there is no directory", "make it", fault.Usage,
			func(s *setting, dir string) error { s.r.SealedPath = dir + "-none/x/d.sealed"; return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			dir := filepath.Join(t.TempDir(), "in")
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/a", []byte("a"), 0o600)); err != nil {
				t.Fatal(err)
			}
			s.r.Input = source.At(dir)
			if err := c.change(s, dir); err != nil {
				t.Fatal(err)
			}
			_, err := Run(t.Context(), s.d, s.r)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(fault.Hint(err), c.hint) || fault.ClassOf(err) != c.code {
				t.Errorf("%v (class %s); hint: %s", err, fault.ClassOf(err), fault.Hint(err))
			}
			s.nothingPublished(t)
		})
	}
}

// TestHostileNames go through as they are: nothing is expanded or split.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	for _, name := range []string{"-rf", "$(touch x)", "a b", `q"uo'te`, "*?[x]", "~root", "%s%n", "`id`", ";reboot",
		"ünï", strings.Repeat("n", 200)} {
		s.r.Name = name
		s.r.SealedPath = filepath.Join(t.TempDir(), name)
		s.r.DirAtRest = filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(s.r.DirAtRest, 0o700); err != nil {
			t.Fatal(err)
		}
		p, err := Run(t.Context(), s.d, s.r)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		s.checkVolume(t, p.Info)
		if p.Info.PathAtRest != filepath.Join(s.r.DirAtRest, name) || p.Info.Name != name {
			t.Errorf("%q became %q, %q", name, p.Info.PathAtRest, p.Info.Name)
		}
	}
}

// TestFullHere seals onto a small file system of its own.
func TestFullHere(t *testing.T) {
	t.Parallel()
	small := t.TempDir()
	if err := syscall.Mount("small", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	s := newSetting(t)
	s.file = filepath.Join(t.TempDir(), "big")
	s.r.Input = source.At(s.file)
	if err := os.WriteFile(s.file, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s.r.SealedPath = filepath.Join(small, "d.sealed")
	_, err := Run(t.Context(), s.d, s.r)
	if err == nil || !strings.Contains(err.Error(), "no space on this machine: the sealed file takes about 21 MiB") ||
		!strings.Contains(err.Error(), small+" has 8.0 MiB left") || fault.Hint(err) == "" {
		t.Errorf("found out beforehand: %v; %s", err, fault.Hint(err))
	}
	p := s.publishing(t) // as if the space had gone meanwhile
	p.input.usage = volume.Usage{}
	if _, err = p.seal(t.Context()); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fault.Hint(err), "make space in "+small) {
		t.Errorf("found out by writing: %v; %s", err, fault.Hint(err))
	}
	if left, _ := os.ReadDir(small); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s.nothingPublished(t)
}

// flaky is a connection that breaks: each try to make the sealed file there fails until it was replaced
// often enough.
type flaky struct {
	transfer.Local
	s *flakySite
}

type flakySite struct {
	broken  atomic.Int32
	dialled int
}

var errCut = &transfer.Error{Kind: transfer.ErrConnect, What: "the connection to the login node broke", Err: errors.New("cut")}

func (f flaky) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	if !strings.Contains(p, InfoSuffix) && f.s.broken.Add(-1) >= 0 {
		return nil, errCut
	}
	return f.Local.Create(p, m)
}

func TestReconnects(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	s.d.FirstWait = time.Millisecond
	site := new(flakySite)
	site.broken.Store(2)
	s.d.FS = flaky{s: site}
	s.d.Reconnect = func(context.Context) (transfer.FS, error) {
		if site.dialled++; site.dialled == 1 {
			return nil, errCut // not back yet
		}
		return flaky{s: site}, nil
	}
	p, err := Run(t.Context(), s.d, s.r)
	if err != nil || site.dialled != 3 {
		t.Fatalf("%v after %d connections", err, site.dialled)
	}
	s.checkVolume(t, p.Info)
	refused := errors.New("login refused")
	site.broken.Store(1)
	s.r.Force = true // nothing remembers the sealed file
	s.d.FS, s.d.Reconnect = flaky{s: site}, func(context.Context) (transfer.FS, error) { return nil, refused }
	if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, refused) {
		t.Errorf("what will not get better by waiting: %v", err)
	}
}
