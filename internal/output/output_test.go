package output

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// refusals are outputs that are not made; each gets a directory with a file "in", a directory "tree" with a
// file "tree/in", and what prepare puts there.
var refusals = map[string]struct {
	prepare func(dir string) error
	path    string
	inputs  []string
	is      error
	says    string
}{
	"the input":           {nil, "in", []string{"in"}, ErrInput, "same file as the input"},
	"by another path":     {nil, "tree/../in", []string{"tree", "in"}, ErrInput, "same file"},
	"a hard link of it":   {func(d string) error { return os.Link(d+"/in", d+"/out") }, "out", []string{"in"}, ErrInput, "same file"},
	"a link to it":        {func(d string) error { return os.Symlink("in", d+"/out") }, "out", []string{"in"}, ErrInput, "same file"},
	"the input as a link": {func(d string) error { return os.Symlink("out", d+"/x") }, "in", []string{"x", "in"}, ErrInput, "same file"},
	"the input directory": {nil, "tree", []string{"tree"}, ErrInput, "same file"},
	"in the input":        {nil, "tree/out", []string{"in", "tree"}, ErrInput, "would lie in"},
	"in it by a link":     {func(d string) error { return os.Symlink("tree", d+"/l") }, "l/out", []string{"tree"}, ErrInput, "would lie in"},
	"in a link's target":  {func(d string) error { return os.Symlink("tree", d+"/l") }, "tree/out", []string{"l"}, ErrInput, "would lie in"},
	"an input's parent":   {nil, "tree", []string{"tree/in"}, ErrKind, "is a directory"},
	"a file":              {nil, "in", nil, fs.ErrExist, "exists"},
	"a link":              {func(d string) error { return os.Symlink("in", d+"/out") }, "out", nil, ErrKind, "is a symbolic link"},
	"a dangling link":     {func(d string) error { return os.Symlink("none", d+"/out") }, "out", nil, ErrKind, "is a symbolic link"},
	"a pipe":              {func(d string) error { return syscall.Mkfifo(d+"/out", 0o600) }, "out", nil, ErrKind, "is a named pipe"},
	"a device":            {nil, "/dev/null", nil, ErrKind, "is a device"},
	"no name":             {nil, "no/", nil, ErrKind, "is no file's name"},
	"nowhere":             {nil, "no/out", nil, fs.ErrNotExist, "there is no directory "},
	"below a file":        {nil, "in/out", nil, ErrKind, "/in is no directory"},
	"far below a file":    {nil, "in/a/out", nil, ErrKind, "/in/a is no directory"},
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range refusals {
		for _, replace := range []bool{false, true} {
			dir := t.TempDir()
			in := func(name string) string {
				if filepath.IsAbs(name) {
					return name
				}
				return dir + "/" + name // not cleaned
			}
			err := errors.Join(os.Mkdir(dir+"/tree", 0o700), os.WriteFile(dir+"/in", []byte("precious"), 0o600),
				os.WriteFile(dir+"/tree/in", []byte("precious"), 0o600))
			if c.prepare != nil {
				err = errors.Join(err, c.prepare(dir))
			}
			if err != nil {
				t.Fatal(err)
			}
			f := File{Path: in(c.path), Replace: replace}
			for _, i := range c.inputs {
				f.Inputs = append(f.Inputs, in(i))
			}
			before := listing(t, dir)
			err, cerr := f.Check(), create(f)
			if replace && name == "a file" {
				if err != nil || cerr != nil {
					t.Errorf("%s, to be replaced: %v, %v", name, err, cerr)
				}
			} else if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !errors.Is(cerr, c.is) ||
				fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
				t.Errorf("%s: %v, %v; hint: %s", name, err, cerr, fault.Hint(err))
			}
			if after := listing(t, dir); after != before {
				t.Errorf("%s: %s became %s", name, before, after)
			}
		}
	}
}

func create(f File) error {
	m, err := f.Create()
	if err == nil {
		m.Discard()
	}
	return err
}

// listing tells names, kinds and contents of all that is in a directory.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		b.WriteString(rel + " " + d.Type().String())
		if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			b.Write(append([]byte(" "), content...))
			if err != nil {
				return err
			}
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCommit makes files with and without a name until then: new ones, and in the place of others.
func TestCommit(t *testing.T) {
	t.Parallel()
	unknown := func(string) (*os.File, error) { return nil, syscall.EOPNOTSUPP }
	for way, open := range map[string]func(string) (*os.File, error){"nameless": nameless, "named": unknown} {
		for name, c := range map[string]struct {
			before, meanwhile string
			replace           bool
			want              error
			removed           bool // what was there, before the other comes: ext4 gives its inode to that one
		}{
			"new":                    {"", "", false, nil, false},
			"new, to be replaced":    {"", "", true, nil, false},
			"in another's place":     {"old", "", true, nil, false},
			"something came":         {"", "theirs", false, fs.ErrExist, false},
			"something came, forced": {"", "theirs", true, fs.ErrExist, false},
			"something else came":    {"old", "theirs", true, fs.ErrExist, false},
			"it has the inode":       {"old", "theirs", true, fs.ErrExist, true},
		} {
			dir := t.TempDir()
			path := filepath.Join(dir, strings.Repeat("n", 250))
			put := func(content string) {
				if content != "" {
					if err := errors.Join(os.WriteFile(path+"-", []byte(content), 0o600), os.Rename(path+"-", path)); err != nil {
						t.Fatal(err)
					}
				}
			}
			put(c.before)
			m, err := File{Path: path, Replace: c.replace}.create(open)
			if err != nil {
				t.Fatalf("%s, %s: %v", way, name, err)
			}
			if _, err := m.WriteString("made"); err != nil {
				t.Fatal(err)
			}
			if c.removed {
				if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(c.meanwhile), 0o600)); err != nil {
					t.Fatal(err)
				}
			} else {
				put(c.meanwhile)
			}
			want := "made"
			if c.want != nil {
				want = c.meanwhile
			}
			if err := m.Commit(); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", way, name, err)
			}
			m.Discard()
			if got := listing(t, dir); got != ". d---------\n"+filepath.Base(path)+" ---------- "+want+"\n" {
				t.Errorf("%s, %s: there is %s", way, name, got)
			}
			m, err = File{Path: path + "2"}.create(open)
			if err != nil {
				t.Fatal(err)
			}
			m.Discard()
			if names, _ := os.ReadDir(dir); len(names) != 1 {
				t.Errorf("%s, %s: discarded: %v", way, name, names)
			}
		}
	}
}

// TestOverwrite follows links, and does not touch what lies beside the file.
func TestOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := errors.Join(os.WriteFile(dir+"/x", []byte("old"), 0o600), os.WriteFile(dir+"/x.partial", []byte("theirs"), 0o600),
		os.Symlink("x", dir+"/l"), Overwrite(dir+"/l", []byte("new"), 0o640), Overwrite(dir+"/y", []byte("new"), 0o640))
	if err != nil {
		t.Fatal(err)
	}
	want := ". d---------\nl L---------\nx ---------- new\nx.partial ---------- theirs\ny ---------- new\n"
	if got := listing(t, dir); got != want {
		t.Errorf("there is %s", got)
	}
	if st, err := os.Stat(dir + "/x"); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestDir fills a new directory, an empty one, and one by a link, which stay what they are.
func TestDir(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	if err := errors.Join(os.Mkdir(top+"/empty", 0o755), os.Mkdir(top+"/linked", 0o755), os.Symlink("linked", top+"/link"),
		os.WriteFile(top+"/new.partial", []byte("theirs"), 0o600)); err != nil {
		t.Fatal(err)
	}
	then := time.Unix(1_000_000_000, 0)
	for _, name := range []string{"new", "empty", "link", "new2/"} {
		path := top + "/" + name
		before, berr := os.Stat(path)
		x, err := Dir{Path: path}.Create()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = errors.Join(os.Mkdir(x.Path()+"/sub", 0o700), os.WriteFile(x.Path()+"/sub/a", []byte("a"), 0o600),
			os.Chmod(x.Path()+"/sub", 0o555), os.WriteFile(x.Path()+"/b", []byte("b"), 0o600),
			os.Chtimes(x.Path(), then, then), os.Chmod(x.Path(), 0o550), x.Commit(), x.Discard())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		after, err := os.Stat(path)
		if err != nil || after.Mode().Perm() != 0o550 || !after.ModTime().Equal(then) || berr == nil && !os.SameFile(before, after) {
			t.Errorf("%s: %+v, %v", name, after, err)
		}
		if got := listing(t, path+"/."); got != ". d---------\nb ---------- b\nsub d---------\nsub/a ---------- a\n" {
			t.Errorf("%s: there is %s", name, got)
		}
		t.Cleanup(func() { _ = errors.Join(os.Chmod(path, 0o700), os.Chmod(path+"/sub", 0o700)) }) // so that it can be removed
		if st, err := os.Stat(path + "/sub"); err != nil || st.Mode().Perm() != 0o555 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if names, _ := os.ReadDir(top); len(names) != 6 {
		t.Errorf("there are %v", names)
	}
}

// TestDirRefused: what is no empty directory stays as it is, and what was begun is removed.
func TestDirRefused(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	if err := errors.Join(os.Mkdir(top+"/full", 0o755), os.WriteFile(top+"/full/x", nil, 0o600), syscall.Mkfifo(top+"/pipe", 0o600),
		os.Symlink("none", top+"/dangling")); err != nil {
		t.Fatal(err)
	}
	before := listing(t, top)
	for name, want := range map[string]error{"full": fs.ErrExist, "full/x": ErrKind, "pipe": ErrKind,
		"dangling": ErrKind, "no/dir": fs.ErrNotExist} {
		if _, err := (Dir{Path: top + "/" + name}).Create(); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Dir{Path: top + "/full/new", Inputs: []string{top + "/full"}}).Check(); !errors.Is(err, ErrInput) {
		t.Errorf("in an input: %v", err)
	}
	for _, name := range []string{"", "-"} {
		if err := (Dir{Path: name}).Check(); !errors.Is(err, ErrKind) || fault.Hint(err) == "" {
			t.Errorf("%q: %v", name, err)
		}
	}
	x, err := Dir{Path: top + "/new"}.Create()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(top+"/new", 0o700), os.WriteFile(x.Path()+"/a", nil, 0o400), os.Chmod(x.Path(), 0o500)); err != nil {
		t.Fatal(err)
	}
	if err := x.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it came into being meanwhile: %v", err)
	}
	if err := errors.Join(x.Discard(), os.Remove(top+"/new")); err != nil {
		t.Error(err)
	}
	if after := listing(t, top); after != before {
		t.Errorf("%s became %s", before, after)
	}
}
