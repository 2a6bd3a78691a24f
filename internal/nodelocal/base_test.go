package nodelocal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/slurm"
)

// Users of the tests.
const (
	self  = 12345
	other = 12346
)

// as does something on a thread of its own as another user.
func as(t *testing.T, uid int, do func()) {
	t.Helper()
	done := make(chan syscall.Errno)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno == 0 {
			do()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// open returns a new directory that every user can reach.
func open(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.Chmod(filepath.Dir(dir), 0o755))
	check(t, os.Chmod(dir, 0o755))
	return dir
}

// taken runs a job's script as a user with TMPDIR set, and returns the base that it takes.
func taken(t *testing.T, tmpdir string) string {
	t.Helper()
	dir := open(t)
	put := func(name, text string) string {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700))
		check(t, os.Chown(filepath.Join(dir, name), self, self))
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	check(t, os.Mkdir(filepath.Join(dir, "job"), 0o700))
	put("srun", "#!/bin/sh\nwhile case $1 in -*) ;; *) false ;; esac; do shift; done\nexec \"$@\"\n")
	const program = "#!/bin/sh\ncd \"${0%/*}/..\" && pwd -P >\"$RECORD\"\nrm -r \"${0%/*}\"\n"
	s := slurm.Script{
		JobName: "x", Nodes: 1, SealTime: 1e9, Dir: filepath.Join(dir, "job"), Log: "job.log",
		Pin: slurm.Pin{Name: "manifest.json", SHA256: put("job/manifest.json", "{}")},
		Node: slurm.NodeRun{Command: "node-run", Binaries: []slurm.Binary{
			{Name: "sealbatch", Path: "sealbatch", SHA256: put("job/sealbatch", program), Size: int64(len(program))},
		}},
	}
	text, err := s.Render()
	check(t, err)
	put("job.sh", string(text))
	put("record", "")
	check(t, os.Chown(s.Dir, self, self))
	cmd := exec.Command("bash", filepath.Join(dir, "job.sh"))
	cmd.Dir, cmd.Env = s.Dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "TMPDIR=" + tmpdir, "RECORD=" + dir + "/record"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: self, Gid: self}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.Dir, "job.log"))
		t.Fatalf("%v: %s%s", err, out, log)
	}
	record, err := os.ReadFile(filepath.Join(dir, "record"))
	check(t, err)
	return strings.TrimSpace(string(record))
}

// place is a directory on the way to a base.
type place struct {
	mode fs.FileMode
	uid  int
}

// makeWay makes directories below each other and returns the last one, which has a name of its own.
func makeWay(t *testing.T, way []place, name string) string {
	t.Helper()
	dir := open(t)
	var made []string
	for i := range way {
		part := "d"
		if i == len(way)-1 && name != "" {
			part = name
		}
		dir = filepath.Join(dir, part)
		check(t, os.Mkdir(dir, 0o755))
		made = append(made, dir)
	}
	for i, p := range way {
		check(t, os.Chown(made[i], p.uid, p.uid))
		check(t, os.Chmod(made[i], p.mode))
	}
	return dir
}

// The job script and this package have the same rule: which directories others
// could exchange.
func TestBasesAreTheScripts(t *testing.T) {
	t.Parallel()
	const sticky, setgid = fs.ModeSticky, fs.ModeSetgid
	for name, c := range map[string]struct {
		way  []place // to the base
		ok   bool
		link string // TMPDIR is a link in a directory that everybody can write
		name string // of the last one
	}{
		"one's own":                     {way: []place{{0o700, self}}, ok: true},
		"like /tmp":                     {way: []place{{sticky | 0o777, 0}}, ok: true},
		"one's own below /tmp":          {way: []place{{sticky | 0o777, 0}, {0o700, self}}, ok: true},
		"deep":                          {way: []place{{0o755, self}, {0o711, self}, {0o755, 0}, {0o700, self}}, ok: true},
		"for everybody":                 {way: []place{{0o777, self}}},
		"for a group":                   {way: []place{{setgid | 0o770, self}}},
		"sticky for a group":            {way: []place{{sticky | 0o770, self}}, ok: true},
		"below one for a group":         {way: []place{{0o775, 0}, {0o700, self}}},
		"below below one for everybody": {way: []place{{0o777, 0}, {0o755, self}, {0o700, self}}},
		"another's":                     {way: []place{{sticky | 0o777, other}}},
		"below another's":               {way: []place{{0o755, other}, {0o700, self}}},
		"another's below /tmp":          {way: []place{{sticky | 0o777, 0}, {sticky | 0o777, other}}},
		"by another's link":             {way: []place{{0o700, self}}, ok: true, link: "link"},
		"a link to one for everybody":   {way: []place{{0o777, self}}, link: "link"},
		"with a name of several":        {way: []place{{0o700, self}}, name: "a:b"},
		"with a name of blanks":         {way: []place{{0o700, self}}, ok: true, name: "a  $(x) 'b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := makeWay(t, c.way, c.name)
			tmpdir := dir
			if c.link != "" {
				shared := open(t)
				check(t, os.Chmod(shared, 0o777))
				tmpdir = filepath.Join(shared, c.link)
				check(t, os.Symlink(dir, tmpdir))
				check(t, os.Lchown(tmpdir, other, other))
			}
			want := dir
			if !c.ok {
				want = "/tmp"
			}
			if got := taken(t, tmpdir); got != want {
				t.Errorf("the script takes %s", got)
			}
			as(t, self, func() {
				b := Bases(func(name string) string { return map[string]string{"TMPDIR": tmpdir}[name] })[0]
				if b.Name != tmpdir || (b.Err == nil) != c.ok || c.ok && b.Dir != dir || !c.ok && b.Dir != "" {
					t.Errorf("Bases has %+v", b)
				}
				if places := Places("", func(string) string { return tmpdir }); c.ok != (places[0] == dir) {
					t.Errorf("Places has %q", places)
				}
			})
		})
	}
	if b := Bases(func(string) string { return "/no/such" })[0]; !errors.Is(b.Err, os.ErrNotExist) {
		t.Errorf("of none: %+v", b)
	}
}

// A supervisor does not begin in a directory that others can exchange, and what
// lies there is not cleared away: it may be anything of its user's by then.
func TestExchangeableIsNotOwned(t *testing.T) {
	t.Parallel()
	base := open(t)
	dir := stray(t, base, "sealbatch.aaaaaaaaaa", "", 2*youngest)
	if _, err := Own(dir); err != nil {
		t.Error(err)
	}
	check(t, os.Chmod(base, 0o770))
	if _, err := Own(dir); err == nil {
		t.Error("a directory that a group can exchange is owned")
	}
	for _, place := range Places(dir, func(string) string { return base }) {
		if place == base {
			t.Error("what killed jobs left there would be removed")
		}
	}
}
