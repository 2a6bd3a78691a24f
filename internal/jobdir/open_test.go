package jobdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// The users of the tests besides root, whom nobody else on the machine is. The
// tests run as root, who can give files to them.
const (
	alice = 2345
	bob   = 2346
)

// site is a file system in a directory of the test's, where "/" is.
type site struct {
	t   *testing.T
	top string
	m   []byte // the manifest of alice's job
}

// newSite makes the site of a job, /scratch/p/job, below a project's directory
// that is a symbolic link of root's.
func newSite(t *testing.T) *site {
	t.Helper()
	m, err := os.ReadFile("../manifest/testdata/manifest.json")
	s := &site{t: t, top: t.TempDir(), m: m}
	s.check(err)
	s.check(os.Chmod(s.top, 0o755))
	s.dir("scratch", 0, 0o755)
	s.dir("lustre", 0, 0o711)
	s.dir("lustre/p", 0, fs.ModeSetgid|0o770)
	s.check(os.Chown(s.path("lustre/p"), 0, alice)) // the project's group
	s.link("scratch/p", "/lustre/p", 0)
	s.job("lustre/p/job")
	return s
}

func (s *site) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.top, name) }

func (s *site) dir(name string, owner int, mode fs.FileMode) {
	s.t.Helper()
	s.check(os.Mkdir(s.path(name), 0o700))
	s.check(os.Chown(s.path(name), owner, owner))
	s.check(os.Chmod(s.path(name), mode))
}

func (s *site) link(name, target string, owner int) {
	s.t.Helper()
	s.check(os.Symlink(target, s.path(name)))
	s.check(os.Lchown(s.path(name), owner, owner))
}

// linked and moded are changes to a site, for tables.
func linked(name, target string, owner int) func(*site) {
	return func(s *site) { s.t.Helper(); s.link(name, target, owner) }
}

func moded(name string, mode fs.FileMode) func(*site) {
	return func(s *site) { s.t.Helper(); s.check(os.Chmod(s.path(name), mode)) }
}

// job makes the job directory of alice's job.
func (s *site) job(name string) {
	s.t.Helper()
	s.dir(name, alice, fs.ModeSetgid|0o700)
	s.file(name+"/"+ManifestName, string(s.m))
}

func (s *site) file(name, text string) {
	s.t.Helper()
	s.check(os.WriteFile(s.path(name), []byte(text), 0o600))
	s.check(os.Chown(s.path(name), alice, alice))
}

// begin begins alice's walk at the site's "/".
func (s *site) begin() (*walk, error) {
	s.t.Helper()
	top, err := os.OpenFile(s.top, unix.O_PATH|unix.O_DIRECTORY, 0)
	s.check(err)
	return newWalk(top, alice)
}

// open opens a job directory as alice does, and returns where it is.
func (s *site) open(path string) (where string, err error) {
	w, err := s.begin()
	if err != nil {
		return "", err
	}
	defer w.close()
	var root *os.Root
	as(s.t, alice, func() {
		if err = w.to(path); err == nil {
			root, _, err = w.claim(manifest.DigestOf(s.m))
		}
	})
	if err != nil {
		return "", err
	}
	defer root.Close()
	d, err := root.Open(".")
	s.check(err)
	defer d.Close()
	where, err = os.Readlink(fsx.FDPath(d))
	return strings.TrimPrefix(where, s.top), err
}

// as calls f with a user's rights to files.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.SetfsgidRetGid(uid); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Setfsuid(0)
		_ = unix.Setfsgid(0)
	}()
	f()
}

func TestOpens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path  string
		where string // /lustre/p/job if empty
		do    func(s *site)
	}{
		"by the site's link": {path: "/scratch/p/job"},
		"by its own name":    {path: "/lustre/p/job"},
		"untidy":             {path: "//scratch/./p//job/"},
		"back up":            {path: "/scratch/p/../p/../../scratch/p/job"},
		"above the top":      {path: "/../../scratch/p/job"},
		"relative link": {path: "/home/p/job", do: func(s *site) {
			s.dir("home", 0, 0o755)
			s.link("home/p", "../lustre/./p", 0)
		}},
		"link to a link": {path: "/p/job", do: linked("p", "scratch/p", 0)},
		"link to the directory itself": {path: "/home/job", do: func(s *site) {
			s.dir("home", alice, 0o755)
			s.link("home/job", "/scratch/p/job", alice)
		}},
		"own link in root's directory": {path: "/scratch/mine/job", do: linked("scratch/mine", "/lustre/p", alice)},
		"root's link in one's own directory": {path: "/home/p/job", do: func(s *site) {
			s.dir("home", alice, 0o700)
			s.link("home/p", "/lustre/p", 0)
		}},
		"link through a project's directory": {path: "/way/job", do: linked("way", "/lustre/p/job/../../p", 0)},
		"up from a link's target, not from the link": {path: "/scratch/deep/../job", do: func(s *site) {
			s.dir("lustre/p/deep", alice, 0o700)
			s.link("scratch/deep", "/lustre/p/deep", 0)
			s.job("scratch/job") // where the name alone would lead
		}},
		"below somebody else's directory": {path: "/bob/job", where: "/bob/job", do: func(s *site) {
			s.dir("bob", bob, 0o755)
			s.job("bob/job")
		}},
		"in a sticky directory": {path: "/tmp/job", where: "/tmp/job", do: func(s *site) {
			s.dir("tmp", 0, fs.ModeSticky|0o777)
			s.job("tmp/job")
		}},
		"40 links": {path: "/l40/job", do: func(s *site) { s.chain(40) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if c.do != nil {
				c.do(s)
			}
			if c.where == "" {
				c.where = "/lustre/p/job"
			}
			if where, err := s.open(c.path); err != nil || where != c.where {
				t.Errorf("it is %q, %v; want %q", where, err, c.where)
			}
		})
	}
}

// chain makes n links, of which the last leads to the project's directory
// through all the others.
func (s *site) chain(n int) {
	s.link("l1", "/lustre/p", 0)
	for i := 2; i <= n; i++ {
		s.link("l"+strconv.Itoa(i), "l"+strconv.Itoa(i-1), 0)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	replace := func(mode fs.FileMode, owner int) func(*site) {
		return func(s *site) {
			s.check(os.Rename(s.path("lustre/p/job"), s.path("lustre/p/old")))
			s.dir("lustre/p/job", owner, mode)
			s.file("lustre/p/job/"+ManifestName, string(s.m))
		}
	}
	manifestIs := func(change func(s *site, path string)) func(*site) {
		return func(s *site) { change(s, s.path("lustre/p/job/"+ManifestName)) }
	}
	for name, c := range map[string]struct {
		path string
		want error
		do   func(s *site)
	}{
		"nothing there": {"/scratch/p/none", fs.ErrNotExist, nil},
		"a file":        {"/scratch/p/job/" + ManifestName, unix.ENOTDIR, nil},
		"below a file":  {"/scratch/p/job/" + ManifestName + "/x", unix.ENOTDIR, nil},

		"one's own link in a project's directory": {"/scratch/p/link", ErrLink, linked("lustre/p/link", "job", alice)},
		"root's link in a project's directory":    {"/scratch/p/link", ErrLink, linked("lustre/p/link", "/lustre/p/job", 0)},
		"bob's link in a project's directory":     {"/scratch/p/link", ErrLink, linked("lustre/p/link", "job", bob)},
		"bob's link in root's directory":          {"/scratch/bob/job", ErrLink, linked("scratch/bob", "/lustre/p", bob)},
		"link below a project's directory": {"/scratch/p/deep/link/job", ErrLink, func(s *site) {
			s.dir("lustre/p/deep", alice, 0o700)
			s.link("lustre/p/deep/link", "..", alice)
		}},
		"link in bob's directory": {"/bob/p/job", ErrLink, func(s *site) {
			s.dir("bob", bob, 0o755)
			s.link("bob/p", "/lustre/p", alice)
		}},
		"link in a sticky directory": {"/tmp/p/job", ErrLink, func(s *site) {
			s.dir("tmp", 0, fs.ModeSticky|0o777)
			s.link("tmp/p", "/lustre/p", alice)
		}},
		"link to a link in a project's directory": {"/way", ErrLink, func(s *site) {
			s.link("lustre/p/link", "job", alice)
			s.link("way", "/lustre/p/link", 0)
		}},
		"link in a directory that its group can write": {"/home/p/job", ErrLink, func(s *site) {
			s.dir("home", alice, 0o770)
			s.link("home/p", "/lustre/p", alice)
		}},

		"link to itself": {"/loop/job", ErrLinks, linked("loop", "loop", 0)},
		"links in a ring": {"/a/job", ErrLinks, func(s *site) {
			s.link("a", "/scratch/b", 0)
			s.link("scratch/b", "../a", alice)
		}},
		"growing by links": {"/grow/job", ErrLinks, linked("grow", "./grow/grow", 0)},
		"41 links":         {"/l41/job", ErrLinks, func(s *site) { s.chain(41) }},
		"link to nowhere":  {"/none/job", fs.ErrNotExist, linked("none", "/no/where", 0)},
		"link to a file":   {"/file", unix.ENOTDIR, func(s *site) { s.link("file", "/scratch/p/job/"+ManifestName, 0) }},

		"anyone can write above":               {"/scratch/p/job", ErrAncestor, moded("lustre", 0o777)},
		"anyone can write the project's":       {"/scratch/p/job", ErrAncestor, moded("lustre/p", fs.ModeSetgid|0o777)},
		"anyone can write what holds the link": {"/scratch/p/job", ErrAncestor, moded("scratch", 0o777)},
		"anyone can write the top":             {"/scratch/p/job", ErrAncestor, moded("", 0o777)},
		"may not be searched":                  {"/scratch/p/job", fs.ErrPermission, moded("lustre", 0o700)},

		"bob's":             {"/scratch/p/job", ErrNotOwn, replace(0o700, bob)},
		"root's":            {"/scratch/p/job", ErrNotOwn, replace(0o700, 0)},
		"read by others":    {"/scratch/p/job", ErrNotOwn, replace(0o750, alice)},
		"searched by all":   {"/scratch/p/job", ErrNotOwn, replace(0o711, alice)},
		"not even writable": {"/scratch/p/job", ErrNotOwn, replace(0o500, alice)},

		"another job's": {"/scratch/p/job", ErrManifest, manifestIs(func(s *site, _ string) {
			s.file("lustre/p/job/"+ManifestName, strings.Replace(string(s.m), `"nodes": 2`, `"nodes": 1`, 1))
		})},
		"empty manifest": {"/scratch/p/job", ErrManifest, manifestIs(func(s *site, p string) { s.check(os.Truncate(p, 0)) })},
		"no manifest":    {"/scratch/p/job", fs.ErrNotExist, manifestIs(func(s *site, p string) { s.check(os.Remove(p)) })},
		"manifest is a FIFO": {"/scratch/p/job", fsx.ErrNotRegular, manifestIs(func(s *site, p string) {
			s.check(os.Remove(p))
			s.check(unix.Mkfifo(p, 0o600))
			s.check(os.Chown(p, alice, alice))
		})},
		"huge manifest": {"/scratch/p/job", fsx.ErrTooLarge, manifestIs(func(s *site, p string) {
			s.check(os.Truncate(p, maxManifest+1))
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if c.do != nil {
				c.do(s)
			}
			if where, err := s.open(c.path); !errors.Is(err, c.want) {
				t.Errorf("it is %q, %v; want %v", where, err, c.want)
			}
		})
	}
}

// A project's member who exchanges directories while alice's walk is under way
// changes nothing: it goes on where it is.
func TestExchangedOnTheWay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.dir("lustre/p/deep", alice, 0o755)
	s.job("lustre/p/deep/job")
	w, err := s.begin()
	s.check(err)
	defer w.close()
	s.check(w.to("/scratch/p/deep"))
	s.check(os.Rename(s.path("lustre/p/deep"), s.path("lustre/p/moved")))
	s.dir("lustre/p/deep", bob, 0o755)
	s.job("lustre/p/deep/job")
	s.file("lustre/p/moved/job/mark", "")
	s.check(w.to("job"))
	root, _, err := w.claim(manifest.DigestOf(s.m))
	s.check(err)
	defer root.Close()
	// And so it does once the directory is open.
	s.check(os.Rename(s.path("lustre/p/moved/job"), s.path("lustre/p/moved/aside")))
	s.job("lustre/p/moved/job")
	if _, err := root.Stat("mark"); err != nil {
		t.Errorf("another directory was opened: %v", err)
	}
}

func TestIsSame(t *testing.T) {
	t.Parallel()
	one, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	seen, err := one.Stat(".")
	if err != nil || isSame(one, seen) != nil {
		t.Errorf("it is not itself: %v", err)
	}
	if seen, err = os.Stat(t.TempDir()); err != nil || isSame(one, seen) == nil {
		t.Errorf("another directory passes: %v", err)
	}
}

// TestOpen opens a job directory by its whole path, as jobs do.
func TestOpen(t *testing.T) {
	t.Parallel()
	m, err := os.ReadFile("../manifest/testdata/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "job")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, ManifestName), m, 0o600)); err != nil {
		t.Fatal(err)
	}
	root, got, err := Open(dir, manifest.DigestOf(m))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got.Run == "" {
		t.Error("no manifest was returned")
	}
	for path, want := range map[string]string{dir + "x": "no such file", "job": "not absolute", "/": ErrNotOwn.Error()} {
		_, _, err := Open(path, manifest.DigestOf(m))
		if err == nil || !strings.Contains(err.Error(), "job directory "+path+": ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if _, _, err := Open(dir, manifest.Digest{1}); !errors.Is(err, ErrManifest) || fault.ClassOf(err) != fault.Integrity ||
		!strings.Contains(fault.Hint(err), "submit the job again") {
		t.Errorf("another digest: %v (%s)", err, fault.Hint(err))
	}
}
