package results

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// closed is a site on which some files and directories may not be read until it is told to open them.
type closed struct {
	transfer.Local
	names  []string
	opened *bool
}

func (c closed) denied(path string) bool {
	return !*c.opened && slices.Contains(c.names, filepath.Base(path))
}

func (c closed) Open(path string) (transfer.File, error) {
	if c.denied(path) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return c.Local.Open(path)
}

func (c closed) ReadDir(path string) ([]fs.FileInfo, error) {
	if c.denied(path) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return c.Local.ReadDir(path)
}

// TestClosedToTheirOwner: one file that its owner may not read keeps nobody from a killed job's others; it is named,
// or made readable where the site does that.
func TestClosedToTheirOwner(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"file", "directory"} {
		for _, opens := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, made readable: %v", what, opens), func(t *testing.T) {
				t.Parallel()
				j := newJob(t)
				tree := t.TempDir()
				check(t, errors.Join(os.WriteFile(tree+"/fine", []byte("fine"), 0o600), os.Mkdir(tree+"/d", 0o700),
					os.WriteFile(tree+"/d/in", []byte("in"), 0o600)))
				n := j.nodeOf("cn1", tree)
				dir := j.killed(n)
				_, key, err := volume.ReadKey(bytes.NewReader(n.keys), j.owner)
				check(t, err)
				c, err := volume.OpenCipherDir(filepath.Join(dir, jobdir.CipherDirName), key)
				check(t, err)
				want := map[string]string{"file": "fine", "directory": "d"}[what]
				site := closed{opened: new(bool)}
				entries, err := os.ReadDir(filepath.Join(dir, jobdir.CipherDirName))
				check(t, err)
				for _, e := range entries {
					if c.PlainPath(e.Name()) == want {
						site.names = append(site.names, e.Name())
					}
				}
				d := Deps{FS: site, Identities: []age.Identity{j.owner}}
				if opens {
					d.Readable = func(_ context.Context, node string) error { *site.opened = node == "cn1"; return nil }
				}
				nodes, err := Fetch(t.Context(), d, j.rec, t.TempDir())
				got := one(t, nodes, err)
				if got.Err != nil || len(site.names) != 1 {
					t.Fatalf("%+v, closed: %v", got, site.names)
				}
				if opens {
					if b, err := os.ReadFile(filepath.Join(got.Dir, "d/in")); string(b) != "in" || len(got.Left) > 0 || got.Lost > 0 {
						t.Errorf("%+v, %q, %v", got, b, err)
					}
				} else if len(got.Left) != 1 || got.Lost != 1 || got.Left[0].Path != want || !strings.Contains(got.Left[0].Err.Error(), "permission") {
					t.Errorf("not kept: %+v", got.Left)
				}
				if _, err := os.ReadFile(filepath.Join(got.Dir, "fine")); (err != nil) != (what == "file" && !opens) {
					t.Errorf("fine: %v", err)
				}
			})
		}
	}
}

// bottomless is a site with one directory in another, without end, and a socket in each.
type bottomless struct {
	transfer.Local
	sample fs.FileInfo
	name   string
}

func (b bottomless) ReadDir(string) ([]fs.FileInfo, error) {
	return []fs.FileInfo{entry{b.sample, b.name, fs.ModeDir | 0o700}, entry{b.sample, "socket", fs.ModeSocket | 0o600}}, nil
}

// TestPathsWithoutEnd: what cannot be asked for by its path is left out and named, with the rest of its directory taken.
func TestPathsWithoutEnd(t *testing.T) {
	t.Parallel()
	sample, err := os.Stat(t.TempDir())
	check(t, err)
	to := t.TempDir()
	c := copier{ctx: t.Context(), fs: bottomless{sample: sample, name: strings.Repeat("n", 200)}}
	check(t, c.copy("/x", to))
	const levels = 1 + (maxPath-2)/201
	const unsure = 1 // directories with so long a path that not all in them may have been listed
	if c.lost != 1+unsure || len(c.left) != 1+unsure+levels ||
		!slices.ContainsFunc(c.left, func(d Damage) bool { return d.Err == errLongPath }) {
		t.Errorf("lost %d, left %d of %d", c.lost, len(c.left), 1+unsure+levels)
	}
	check(t, volume.RemoveTree(to))
}

// TestNamesOfWhatTheJobLeft: what the job could not keep is named, each time; names that it has not signed are not believed.
func TestNamesOfWhatTheJobLeft(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	n := j.newNode("cn1")
	var list bytes.Buffer
	w, err := age.Encrypt(&list, j.owner.Recipient())
	check(t, err)
	_, err = w.Write(jobdir.AppendLeft(jobdir.AppendLeft(nil, jobdir.LeftEntry{Path: "a/b", Reason: "torn"}),
		jobdir.LeftEntry{Path: "pipe", Reason: "a pipe"}))
	check(t, errors.Join(err, w.Close()))
	n.receipt.Output.Left = &manifest.Left{Entries: 2, Special: 1, Names: manifest.DigestOf(list.Bytes())}
	dir := j.write(n)
	file := filepath.Join(dir, jobdir.LeftName)
	check(t, os.WriteFile(file, list.Bytes(), 0o600))
	out := t.TempDir()
	for range 2 {
		nodes, err := j.fetch(transfer.Local{}, out)
		got := one(t, nodes, err)
		if got.Err != nil || len(got.Left) != 2 || got.Lost != 1 || got.Left[0].Path != "a/b" || got.Left[0].Err.Error() != "torn" {
			t.Errorf("%+v", got)
		}
	}
	check(t, os.WriteFile(file, append(list.Bytes(), 0), 0o600))
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	got := one(t, nodes, err)
	if got.Err != nil || len(got.Left) != 0 || got.Lost != 1 || len(got.Notes) != 1 ||
		!strings.Contains(got.Notes[0], "not the one that the job signed") {
		t.Errorf("altered: %+v", got)
	}
	opened(t, got.Dir, "cn1")
}

// TestBeside: what the application printed and how it ended lies beside its directory; links that lead out of that are named.
func TestBeside(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	tree := t.TempDir()
	check(t, errors.Join(os.WriteFile(tree+"/stdout", []byte("printed"), 0o600), os.Symlink("/etc/passwd", tree+"/stderr"),
		os.WriteFile(tree+"/exit_code", []byte("0\n"), 0o600), os.Mkdir(tree+"/d", 0o700), os.Symlink("../..", tree+"/d/up"),
		os.Symlink("d/up", tree+"/through"), os.Symlink("..", tree+"/d/top"), os.Symlink("nowhere", tree+"/dangling"),
		os.Symlink("d/top/d/../d", tree+"/inside")))
	n := j.nodeOf("cn1", tree)
	n.receipt.Exit, n.receipt.Reason = 42, "exit code 42"
	j.write(n)
	out := t.TempDir()
	check(t, os.WriteFile(out+"/cn1.stdout", []byte("mine"), 0o600))
	for range 2 {
		nodes, err := j.fetch(transfer.Local{}, out)
		got := one(t, nodes, err)
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		if b, err := os.ReadFile(out + "/cn1.exit_code"); err != nil || string(b) != "42\n" {
			t.Errorf("exit code: %q, %v", b, err)
		}
		if _, err := os.Lstat(out + "/cn1.stderr"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a link in place of stderr: %v", err)
		}
		if got.Before {
			if b, err := os.ReadFile(out + "/cn1.stdout"); err != nil || string(b) != "printed" {
				t.Errorf("stdout: %q, %v", b, err)
			}
			continue
		}
		if b, err := os.ReadFile(out + "/cn1.stdout"); err != nil || string(b) != "mine" || len(got.Notes) != 1 {
			t.Errorf("somebody's own: %q, %v, %v", b, err, got.Notes)
		}
		var links []string
		for _, l := range got.Links {
			links = append(links, l.Path+" -> "+l.Err.Error())
		}
		if want := []string{"d/up -> ../..", "stderr -> /etc/passwd", "through -> d/up"}; !slices.Equal(links, want) {
			t.Errorf("links %q, want %q", links, want)
		}
		check(t, os.Remove(out+"/cn1.stdout"))
	}
}

// TestLongPathOfAKilledJob: what cannot be asked for is named by its plain path; what lies above and beside it is opened.
func TestLongPathOfAKilledJob(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	tree := t.TempDir()
	check(t, os.WriteFile(tree+"/result", []byte("of cn1"), 0o600))
	root, err := os.OpenRoot(tree)
	check(t, err)
	defer root.Close()
	deep := strings.Repeat(strings.Repeat("d", 100)+"/", 30)
	check(t, errors.Join(root.MkdirAll(deep, 0o700), root.WriteFile(deep+"leaf", []byte("deep"), 0o600)))
	j.killed(j.nodeOf("cn1", tree))
	nodes, err := j.fetch(transfer.Local{}, t.TempDir())
	n := one(t, nodes, err)
	if n.Err != nil || len(n.Left) != 1 || n.Lost != 1 || !errors.Is(n.Left[0].Err, errLongPath) ||
		!strings.HasPrefix(deep, n.Left[0].Path+"/") || len(n.Left[0].Path) < 2000 {
		t.Fatalf("%+v", n)
	}
	if b, err := os.ReadFile(n.Dir + "/result"); err != nil || string(b) != "of cn1" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(n.Dir, filepath.Dir(n.Left[0].Path))); err != nil {
		t.Errorf("what lies above it: %v", err)
	}
}
