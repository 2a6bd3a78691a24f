package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/volume"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// lister numbers what a Source gives as sealing does, and describes it. It
// refuses what sealing would refuse.
type lister struct {
	lines []string
	kinds []volume.Type
	names map[string]bool
}

func (l *lister) emit(e volume.Entry) (uint32, error) {
	if l.names == nil {
		l.names = map[string]bool{}
	}
	line := fmt.Sprintf("in %d %q", e.Parent, e.Name)
	if len(l.kinds) > 0 {
		if int(e.Parent) >= len(l.kinds) || l.kinds[e.Parent] != volume.Dir {
			return 0, fmt.Errorf("%q has no directory", e.Name)
		}
		if l.names[line] || e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > 255 || strings.ContainsAny(e.Name, "/\x00") {
			return 0, fmt.Errorf("unusable name %q", e.Name)
		}
	}
	l.names[line] = true
	if e.IsLink {
		if int(e.Link) >= len(l.kinds) || l.kinds[e.Link] != volume.File {
			return 0, fmt.Errorf("%q is a link to nowhere", e.Name)
		}
		l.lines = append(l.lines, fmt.Sprintf("%s = %d", line, e.Link))
		return e.Link, nil
	}
	a := e.Attr
	line += fmt.Sprintf(" %v %04o %d.%09d -> %q", a.Type, a.Mode, a.Mtime.Unix(), a.Mtime.Nanosecond(), e.Target)
	if a.Type == volume.File {
		r, err := e.Open()
		if err != nil {
			return 0, err
		}
		h := sha256.New()
		n, err := io.Copy(h, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return 0, err
		}
		if n != a.Size {
			return 0, fmt.Errorf("%q has %d bytes instead of %d", e.Name, n, a.Size)
		}
		line += fmt.Sprintf(" %d %x", n, h.Sum(nil))
	}
	l.lines = append(l.lines, line)
	l.kinds = append(l.kinds, a.Type)
	return uint32(len(l.kinds) - 1), nil
}

func list(t testing.TB, src volume.Source) string {
	t.Helper()
	var l lister
	must(t, src.Walk(context.Background(), l.emit))
	return strings.Join(l.lines, "\n")
}

// grow makes a tree of everything that both tar and a volume carry.
func grow(t testing.TB, seed uint64, root string) {
	t.Helper()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dirs, files := []string{root}, []string{}
	must(t, os.Mkdir(root, 0o755))
	place := func() string {
		b := make([]byte, []int{1, 15, 16, 99, 100, 101, 155, 255, 1 + r.IntN(254)}[r.IntN(9)])
		for i := range b {
			if b[i] = byte(1 + r.IntN(255)); b[i] == '/' || r.IntN(3) > 0 {
				b[i] = "abcXYZ019-_ \n'\"$\\*"[r.IntN(18)]
			}
		}
		dir := dirs[r.IntN(len(dirs))]
		for len(dir) > 2500 {
			dir = dirs[r.IntN(len(dirs))]
		}
		return fmt.Sprintf("%s/%s", dir, b)
	}
	for range 60 {
		p := place()
		if _, err := os.Lstat(p); err == nil || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
			continue
		}
		switch kind := r.IntN(6); {
		case kind == 0:
			must(t, os.Mkdir(p, 0o700))
			dirs = append(dirs, p)
			continue
		case kind == 1:
			must(t, os.Symlink(place(), p))
		case kind == 2 && len(files) > 0:
			must(t, os.Link(files[r.IntN(len(files))], p))
		default:
			must(t, os.WriteFile(p, bytes.Repeat([]byte{byte(kind), 7}, r.IntN(5000)), 0o600))
			must(t, os.Chmod(p, os.FileMode(0o400|r.IntN(0o1000))))
			files = append(files, p)
		}
		at := time.Unix(int64(r.IntN(2_000_000_000)), int64(r.IntN(1e9)))
		if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() {
			must(t, os.Chtimes(p, at, at))
		}
	}
}

// TestTarIsTree: the archive of a tree gives the very entries of the tree, in
// their order: every name, mode, time, link and byte.
func TestTarIsTree(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	for i, compress := range []string{"", "--gzip", "--zstd", "--xz", "--bzip2"} {
		dir := t.TempDir()
		grow(t, seed+uint64(i), filepath.Join(dir, "tree"))
		want := list(t, At(filepath.Join(dir, "tree")))
		end := map[string]string{"": ".tar", "--gzip": ".tgz", "--zstd": ".tar.zst", "--xz": ".tar.xz", "--bzip2": ".tar.bz2"}[compress]
		create := []string{"--sort=name", "--format=posix", "--create"}
		if compress != "" {
			create = append(create, compress)
		}
		run(t, dir, "tar", append(create, "--file", "tree"+end, "tree")...)
		run(t, dir, "tar", append(create, "--file", "inside"+end, "--directory", "tree", ".")...)
		for _, name := range []string{"tree", "inside"} {
			in := At(filepath.Join(dir, name+end))
			if got := list(t, in); got != want {
				t.Errorf("%s%s:\n%s\ninstead of\n%s", name, end, got, want)
			}
			if called, err := in.DatasetName(); err != nil || called != name {
				t.Errorf("called %q, %v", called, err)
			}
			f, err := os.Open(in.Paths[0])
			must(t, err)
			stdin := Input{Paths: []string{Stdin}, Stdin: f}
			if got := list(t, stdin); name == "inside" && got != want {
				t.Errorf("%s%s on standard input:\n%s", name, end, got)
			}
			must(t, f.Close())
			in.AsFile = true
			if got := list(t, in); strings.Count(got, "\n") != 1 || !strings.Contains(got, name+end) {
				t.Errorf("as a file: %s", got)
			}
		}
	}
}

// TestTarSeals: what is sealed of an archive opens as the tree.
func TestTarSeals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	grow(t, 5, filepath.Join(dir, "tree"))
	run(t, dir, "tar", "--sort=name", "--format=posix", "-czf", "tree.tgz", "tree")
	var all [2]string
	for i, name := range []string{"tree", "tree.tgz"} {
		var out bytes.Buffer
		s, err := volume.Seal(t.Context(), &out, At(filepath.Join(dir, name)), sealOptions(t))
		must(t, err)
		r, err := volume.Open(bytes.NewReader(out.Bytes()), s.Size, s.Key)
		must(t, err)
		all[i] = list(t, r)
	}
	if all[0] != all[1] || len(all[0]) < 1000 {
		t.Errorf("%s\ninstead of\n%s", all[1], all[0])
	}
}

func TestSeveral(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"a/x": "1", "a/skip.log": "2", "b/y/z": "3", "c.txt": "4", "other/c.txt": "5"} {
		p := filepath.Join(dir, name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)))
	}
	run(t, filepath.Join(dir, "b"), "tar", "-czf", "../arch.tgz", "y")
	run(t, dir, "tar", "-czf", "a.tgz", "a")
	at := func(names ...string) (in Input) {
		for _, n := range names {
			in.Paths = append(in.Paths, filepath.Join(dir, n))
		}
		return in
	}
	in := at("c.txt", "a", "arch.tgz")
	var err error
	in.Exclude, err = ParsePatterns([]string{"*.log"})
	must(t, err)
	must(t, in.Check())
	got := list(t, in)
	for _, want := range []string{`in 0 "c.txt" file`, `in 0 "a" directory`, `in 2 "x" file`, `in 0 "arch" directory`,
		`in 4 "y" directory`, `in 5 "z" file`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Count(got, "\n") != 6 {
		t.Errorf("got\n%s", got)
	}
	usage, before, err := in.Scan(t.Context())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "a/x"), []byte("changed"), 0o600))
	_, after, err := in.Scan(t.Context())
	must(t, err)
	if before == after || usage.Entries == 0 {
		t.Error("a changed input looks the same")
	}
	if u, err := at("a", "c.txt").Measure(t.Context()); err != nil || u.PlainBytes != 9 || u.Entries != 3 {
		t.Errorf("%+v, %v", u, err)
	}
	for want, in := range map[string]Input{
		`would both be called "c.txt"`: at("c.txt", "other/c.txt"),
		`would both be called "a"`:     at("a", "a.tgz"),
		"goes with no other":           {Paths: []string{Stdin, dir}},
		"has to be given a name":       {Paths: []string{Stdin}, AsFile: true},
		"none is named":                {},
		`".." is none of a file`:       {Paths: []string{Stdin}, AsFile: true, FileName: ".."},
		`"." is none of a file`:        {Paths: []string{Stdin}, AsFile: true, FileName: "."},
	} {
		if err := in.Check(); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", in, err)
		}
	}
	if err := at("nowhere").Check(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nowhere: %v", err)
	}
}

// TestStdinFile: the file is as long as what came, and nothing of it was on disk in plaintext.
func TestStdinFile(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("patient 4711 ", 20_000)
	dir := t.TempDir()
	in := Input{Paths: []string{Stdin}, AsFile: true, FileName: "notes.txt", Stdin: strings.NewReader(text), Spool: dir}
	must(t, in.Check())
	var l lister
	seen := 0
	must(t, in.Walk(t.Context(), func(e volume.Entry) (uint32, error) {
		open, err := filepath.Glob("/proc/self/fd/*")
		must(t, err)
		for _, fd := range open {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, dir) {
				b, err := os.ReadFile(fd)
				must(t, err)
				if seen++; bytes.Contains(b, []byte("patient")) || len(b) < len(text) {
					t.Errorf("%d bytes, plaintext", len(b))
				}
			}
		}
		return l.emit(e)
	}))
	if want := fmt.Sprintf("%d %x", len(text), sha256.Sum256([]byte(text))); seen == 0 ||
		!strings.Contains(strings.Join(l.lines, "\n"), want) {
		t.Errorf("looked at %d files; got %q", seen, l.lines)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in.Stdin = strings.NewReader(text)
	if err := in.Walk(ctx, l.emit); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestArchiveChanges: an archive that is written to while it is read.
func TestArchiveChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), make([]byte, 4<<20), 0o600))
	run(t, dir, "tar", "-cf", "x.tar", "a")
	path := filepath.Join(dir, "x.tar")
	old := time.Unix(1e9, 0)
	must(t, os.Chtimes(path, old, old))
	var l lister
	err := At(path).Walk(t.Context(), func(e volume.Entry) (uint32, error) {
		if e.Open != nil {
			must(t, os.Truncate(path, 1<<20))
		}
		return l.emit(e)
	})
	if !errors.Is(err, volume.ErrChanged) {
		t.Errorf("got %v", err)
	}
}
