package results

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// hostile is a server that lists what it likes in cipher directories.
type hostile struct {
	transfer.Local
	list     []fs.FileInfo
	target   string // of every symbolic link
	readable string // what every file opens as
}

func (h hostile) ReadDir(path string) ([]fs.FileInfo, error) {
	if filepath.Base(path) == jobdir.CipherDirName {
		return h.list, nil
	}
	return h.Local.ReadDir(path)
}

func (h hostile) Open(path string) (transfer.File, error) {
	if strings.Contains(path, "/"+jobdir.CipherDirName+"/") {
		path = h.readable
	}
	return h.Local.Open(path)
}

func (h hostile) Readlink(string) (string, error) { return h.target, nil }

// entry is a listed file under any name.
type entry struct {
	fs.FileInfo
	name string
	mode fs.FileMode
}

func (e entry) Name() string      { return e.name }
func (e entry) Mode() fs.FileMode { return e.mode }
func (e entry) IsDir() bool       { return e.mode.IsDir() }

const unreadable = "a link, then a file through it that cannot be read"

// TestHostileListing: whatever names a server lists, nothing outside the new
// directory is made, changed or opened to others.
func TestHostileListing(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]entry{
		"climbs":              {{name: "../../escaped", mode: 0o600}},
		"climbs, a directory": {{name: "../../escaped", mode: fs.ModeDir | 0o700}},
		"climbs, a link":      {{name: "../../escaped", mode: fs.ModeSymlink}},
		"climbs within":       {{name: "a/../escaped", mode: 0o600}},
		"is absolute":         {{name: "/tmp/escaped", mode: 0o600}},
		"is the parent":       {{name: "..", mode: fs.ModeDir | 0o700}},
		"is itself":           {{name: ".", mode: fs.ModeDir | 0o700}},
		"is empty":            {{name: "", mode: 0o600}},
		"a link, then a file through it": {
			{name: "gocryptfs.diriv", mode: fs.ModeSymlink}, {name: "gocryptfs.diriv", mode: 0o777}},
		unreadable: {
			{name: "x", mode: fs.ModeSymlink}, {name: "x", mode: 0o777}},
		"a link, then a directory through it": {
			{name: "x", mode: fs.ModeSymlink}, {name: "x", mode: fs.ModeDir | 0o777}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t)
			n := j.newNode("cn1")
			n.receipt, n.sealed = nil, nil
			dir := j.write(n)
			base := t.TempDir()
			precious := filepath.Join(base, "precious")
			check(t, os.WriteFile(precious, []byte("mine"), 0o600))
			st, err := os.Stat(precious)
			check(t, err)
			h := hostile{target: precious, readable: filepath.Join(dir, jobdir.KeysName)}
			if name == unreadable {
				h.readable = filepath.Join(dir, "nothing")
			}
			for _, e := range list {
				e.FileInfo = st
				h.list = append(h.list, e)
			}
			out := filepath.Join(base, "out")
			nodes, err := j.fetch(h, out)
			if err != nil || len(nodes) != 1 || nodes[0].Err == nil || nodes[0].Dir != "" {
				t.Fatalf("Fetch = %+v, %v", nodes, err)
			}
			nothingElse(t, base, out)
		})
	}
}

// nothingElse fails if anything but out was made, or the file "precious" in base
// is not as it was.
func nothingElse(t *testing.T, base, out string) {
	t.Helper()
	now, err := os.Stat(filepath.Join(base, "precious"))
	if b, rerr := os.ReadFile(filepath.Join(base, "precious")); rerr != nil || string(b) != "mine" || err != nil || now.Mode() != 0o600 {
		t.Errorf("a file outside is %q, mode %v; %v, %v", b, now.Mode(), rerr, err)
	}
	for _, d := range []string{base, out} {
		left, err := os.ReadDir(d)
		check(t, err)
		for _, e := range left {
			if e.Name() != "precious" && e.Name() != "out" {
				t.Errorf("%s/%s was made", d, e.Name())
			}
		}
	}
	if _, err := os.Lstat("/tmp/escaped"); err == nil {
		t.Error("/tmp/escaped was made")
	}
}

// TestHostileNodes: a job directory may list nodes under any name; none leads out.
func TestHostileNodes(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.write(j.newNode("cn1"))
	real, err := transfer.Local{}.ReadDir(filepath.Join(j.rec.JobDir, "nodes"))
	check(t, err)
	h := nodesListed{}
	for _, name := range []string{"..", "../cn1", "/cn1", "", "cn1/../../x", "\x1b[2Jcn1", "cn1\nerror: none", "-o"} {
		h.list = append(h.list, entry{real[0], name, fs.ModeDir | 0o700})
	}
	base := t.TempDir()
	nodes, err := j.fetch(h, filepath.Join(base, "out"))
	for _, n := range nodes {
		t.Errorf("node %q was looked at: %+v", n.Name, n)
	}
	if err == nil {
		t.Error("no node is there, and no error says so")
	}
	if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
		t.Errorf("made: %v, %v", left, err)
	}
}

type nodesListed struct {
	transfer.Local
	list []fs.FileInfo
}

func (n nodesListed) ReadDir(string) ([]fs.FileInfo, error) { return n.list, nil }

// TestHugeHole: a hole that costs the storage nothing does not fill the owner's disk.
func TestHugeHole(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	dir := j.killed(j.newNode("cn1"))
	hole := filepath.Join(dir, jobdir.CipherDirName, "hole")
	check(t, os.WriteFile(hole, nil, 0o600))
	check(t, os.Truncate(hole, 1<<43))
	nodes, err := j.fetch(transfer.Local{}, filepath.Join(t.TempDir(), "out"))
	if err != nil || len(nodes) != 1 || !errors.Is(nodes[0].Err, errTooLarge) ||
		!errors.Is(nodes[0].Err, syscall.ENOSPC) || nodes[0].Dir != "" {
		t.Errorf("Fetch = %+v, %v", nodes, err)
	}
	nodes, err = j.recovering(filepath.Join(t.TempDir(), "out"))
	if err != nil || len(nodes) != 1 || nodes[0].Err != nil ||
		len(nodes[0].Left) != 1 || nodes[0].Lost != 1 || !errors.Is(nodes[0].Left[0].Err, errTooLarge) {
		t.Fatalf("Fetch with Recover = %+v, %v", nodes, err)
	}
	opened(t, nodes[0].Dir, "cn1")
}
