package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/keyserver/keyservertest"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// swapped is a site on which another member of the project puts something else in the place of a
// directory as soon as something is made in it.
type swapped struct {
	transfer.Local
	swap func()
}

func (s *swapped) Create(p string, m fs.FileMode) (transfer.WriteFile, error) {
	if s.swap != nil {
		s.swap()
		s.swap = nil
	}
	return s.Local.Create(p, m)
}

// TestReplacesNothingElsewhere: the directory at rest becomes a link to another one of the owner's, which has
// files of the same names: none of them is replaced.
func TestReplacesNothingElsewhere(t *testing.T) {
	t.Parallel()
	s := newKillable(t, false)
	archive, rest := t.TempDir(), filepath.Join(t.TempDir(), "rest")
	atArchive := s.v
	atArchive.Remote, atArchive.Out = archive, filepath.Join(t.TempDir(), "d.sealed")
	if _, err := atArchive.run(t.Context(), func(d Deps) Deps { return d }); err != nil {
		t.Fatal(err)
	}
	names := []string{"d.sealed", "d.sealed" + InfoSuffix, "d.sealed" + InfoSuffix + SigSuffix}
	before := map[string]string{}
	for _, name := range names {
		before[name] = readFile(t, filepath.Join(archive, name))
	}
	for _, only := range [][]string{names, names[:1], names[1:], {"thesis", "d.sealed"}} {
		if err := os.Mkdir(rest, 0o755); err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "other")
		if err := os.CopyFS(other, os.DirFS(archive)); err != nil {
			t.Fatal(err)
		}
		if only[0] == "thesis" {
			before["d.sealed"] = "the work of years"
			if err := os.WriteFile(filepath.Join(other, "d.sealed"), []byte(before["d.sealed"]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			if !slices.Contains(only, name) {
				_ = os.Remove(filepath.Join(other, name))
			}
		}
		v := s.v
		v.Remote, v.Out = rest, filepath.Join(t.TempDir(), "d.sealed")
		_, err := v.run(t.Context(), func(d Deps) Deps {
			d.FS = &swapped{swap: func() {
				if err := errors.Join(os.Remove(rest), os.Symlink(other, rest)); err != nil {
					t.Error(err)
				}
			}}
			return d
		})
		if !errors.Is(err, errOther) || fault.Hint(err) == "" {
			t.Errorf("%q: %v", only, err)
		}
		for _, name := range only {
			if want := before[name]; want != "" && readFile(t, filepath.Join(other, name)) != want {
				t.Errorf("%q: %s was replaced", only, name)
			}
		}
		if err := os.Remove(rest); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOccupied: what has one of the names at the site and is no earlier version is told before anything is sealed.
func TestOccupied(t *testing.T) {
	t.Parallel()
	file := func(name string) error { return os.WriteFile(name, []byte("precious"), 0o600) }
	dir := func(name string) error { return os.Mkdir(name, 0o700) }
	link := func(name string) error { return os.Symlink("/etc/passwd", name) }
	pipe := func(name string) error { return unix.Mkfifo(name, 0o600) }
	for what, put := range map[string]func(name string) error{"file": file, "directory": dir, "link": link, "pipe": pipe} {
		for _, end := range []string{"", InfoSuffix, InfoSuffix + SigSuffix} {
			if end == InfoSuffix+SigSuffix && what != "directory" {
				continue // a signature without an info file is of no use: it is replaced
			}
			t.Run(what+end, func(t *testing.T) {
				t.Parallel()
				s := newSetting(t)
				keys := s.service.Client(t, s.d.Signer)
				name := s.r.DirAtRest + "/d.sealed" + end
				if err := put(name); err != nil {
					t.Fatal(err)
				}
				was, _ := os.Lstat(name)
				if _, err := Run(t.Context(), s.d, s.r); !errors.Is(err, errOther) || fault.Hint(err) == "" {
					t.Errorf("Run: %v", err)
				}
				if _, err := os.Lstat(s.r.SealedPath); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("sealed all the same: %v", err)
				}
				if now, err := os.Lstat(name); err != nil || !os.SameFile(was, now) {
					t.Errorf("it was replaced: %v", err)
				}
				if all := keyservertest.Secrets(t, keys); len(all) > 0 {
					t.Errorf("deposited: %+v", all)
				}
			})
		}
	}
}

// TestWhere: the line that a shell looks for is that of the info file, however odd the path.
func TestWhere(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/scratch/project_1/alice", "/scratch/it's: a #dir", "/scratch/- \"x\" $(touch x)"} {
		i, err := manifest.ParseInfo([]byte(readFile(t, "../manifest/testdata/dataset.info.yaml")))
		if err != nil {
			t.Fatal(err)
		}
		i.PathAtRest = dir + "/d.sealed"
		b, err := i.Encode()
		if err != nil {
			t.Fatal(err)
		}
		at := t.TempDir() + "/it's $(a) dir"
		a := announcement{info: b}
		for name, content := range map[string]string{"d.sealed": "old", "d.partial": "new", "d.sealed" + InfoSuffix: string(b)} {
			if err := errors.Join(os.MkdirAll(at, 0o700), os.WriteFile(filepath.Join(at, name), []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.name(t.Context(), transfer.Local{}, at+"/d.partial", at+"/d.sealed", at+"/d.sealed"); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if got := readFile(t, at+"/d.sealed"); got != "new" {
			t.Errorf("%s: %q", dir, got)
		}
	}
}

// filesOnly is a site that serves files and runs no commands.
type filesOnly struct{ transfer.Local }

func (filesOnly) Run(context.Context, []string, io.Reader) (stdout, stderr []byte, exit int, err error) {
	return nil, nil, 0, fmt.Errorf("sftp only: %w", transfer.ErrNoCommands)
}

// TestFilesOnly: where no command can be run, a volume can be published; that its next version cannot replace it is said
// before anything is sealed, and the first one stays what it is.
func TestFilesOnly(t *testing.T) {
	t.Parallel()
	s := newKillable(t, false)
	only := func(d Deps) Deps { d.FS = filesOnly{}; return d }
	v := s.v
	v.Remote, v.Out, v.State = t.TempDir(), filepath.Join(t.TempDir(), "d.sealed"), t.TempDir()
	first, err := v.run(t.Context(), only)
	if err != nil {
		t.Fatal(err)
	}
	at := first.Info.PathAtRest
	before := readFile(t, at) + readFile(t, at+InfoSuffix)
	s.change(t)
	_, err = v.run(t.Context(), only)
	if !errors.Is(err, transfer.ErrNoCommands) || !strings.Contains(fault.Hint(err), "by sftp") {
		t.Errorf("%v (hint: %s)", err, fault.Hint(err))
	}
	if readFile(t, at)+readFile(t, at+InfoSuffix) != before {
		t.Error("the published version was changed")
	}
	entries, err := os.ReadDir(v.Remote)
	if err != nil || len(entries) != 3 {
		t.Errorf("on the site: %v, %v", entries, err)
	}
	if secret, err := s.keys.GetSecret(t.Context(), first.Info.VolumeID); err != nil || secret.SupersededBy != "" {
		t.Errorf("the published version is superseded by %q, %v", secret.SupersededBy, err)
	}
	_ = os.Rename(at, at+".old") // what the hint says
	_ = os.Rename(at+InfoSuffix, at+".old"+InfoSuffix)
	_ = os.Rename(at+InfoSuffix+SigSuffix, at+".old"+InfoSuffix+SigSuffix)
	if _, err = v.run(t.Context(), only); err != nil {
		t.Error(err)
	}
}

// TestNotReplaced: what keeps a file from being replaced is said, and is not taken for something else that has its name.
func TestNotReplaced(t *testing.T) {
	t.Parallel()
	at := t.TempDir()
	a := announcement{info: []byte("path_at_rest: /x\n")}
	err := errors.Join(os.WriteFile(at+"/d.partial", nil, 0o600), os.WriteFile(at+"/d"+InfoSuffix, a.info, 0o600), os.Mkdir(at+"/d", 0o700))
	if err != nil {
		t.Fatal(err)
	}
	err = a.name(t.Context(), transfer.Local{}, at+"/d.partial", at+"/d", at+"/d")
	if errors.Is(err, errOther) || err == nil || !strings.Contains(err.Error(), "mv: ") {
		t.Errorf("%v", err)
	}
}
