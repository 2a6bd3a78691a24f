package trusted

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
)

// stranger is a user who is neither root nor the tests'.
const stranger = 54321

// scene is a file, "x/y/file", in a directory of the test's.
type scene struct{ top, dir, file string }

func newScene(t *testing.T) scene {
	t.Helper()
	s := scene{top: filepath.Join(t.TempDir(), "x")}
	s.dir = filepath.Join(s.top, "y")
	s.file = filepath.Join(s.dir, "file")
	check(t, os.MkdirAll(s.dir, 0o755), os.WriteFile(s.file, []byte("text"), 0o600))
	return s
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file, dir, top  fs.FileMode
		public, private bool
	}{
		{0o600, 0o700, 0o755, true, true},
		{0o400, 0o755, 0o711, true, true},
		{0o644, 0o755, 0o755, true, false},
		{0o640, 0o755, 0o755, true, false},
		{0o604, 0o755, 0o755, true, false},
		{0o660, 0o755, 0o755, false, false},
		{0o620, 0o755, 0o755, false, false},
		{0o602, 0o755, 0o755, false, false},
		{0o666, 0o755, 0o755, false, false},
		{0o600, 0o775, 0o755, false, false},
		{0o600, 0o757, 0o755, false, false},
		{0o600, 0o755, 0o775, false, false},
		{0o600, 0o755, 0o2770, false, false},
		{0o600, 0o755, 0o777, false, false},
		{0o600, 0o755, 0o1777, true, true},
		{0o600, 0o1777, 0o1775, true, true},
	} {
		s := newScene(t)
		check(t, unix.Chmod(s.file, uint32(c.file)), unix.Chmod(s.dir, uint32(c.dir)), unix.Chmod(s.top, uint32(c.top)))
		for kind, good := range map[Kind]bool{Public: c.public, Secret: c.private} {
			err := Check(s.file, kind)
			if (err == nil) != good || (err != nil && (!errors.Is(err, ErrUnsafe) || fault.ClassOf(err) != fault.Config)) {
				t.Errorf("%o in %o in %o, kind %d: %v", c.file, c.dir, c.top, kind, err)
			}
		}
	}
}

// The commands that the hint names do mend it, all at once.
func TestHintMends(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	check(t, os.Chmod(s.file, 0o664), os.Chmod(s.dir, 0o777), os.Chmod(s.top, 0o775))
	err := Check(s.file, Secret)
	want := "chmod go-w " + s.top + " " + s.dir + " && chmod go-rwx " + s.file
	if fault.Hint(err) != want {
		t.Errorf("hint %q, want %q", fault.Hint(err), want)
	}
	for _, text := range []string{s.top + " (mode 0775) can be changed by its group",
		s.dir + " (mode 0777) can be changed by everybody", s.file + " (mode 0664) can be read or changed by everybody"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %v", text, err)
		}
	}
	check(t, os.Chmod(s.top, 0o755), os.Chmod(s.dir, 0o755), os.Chmod(s.file, 0o600), Check(s.file, Secret))
}

func TestOwners(t *testing.T) {
	t.Parallel()
	for _, which := range []func(scene) string{
		func(s scene) string { return s.file }, func(s scene) string { return s.dir }, func(s scene) string { return s.top },
	} {
		s := newScene(t)
		path := which(s)
		asRoot(t, os.Chown(path, stranger, -1))
		check(t, unix.Chmod(s.top, 0o1777))
		err := Check(s.file, Public)
		if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), path+" (mode ") ||
			!strings.Contains(err.Error(), "belongs to 54321") || fault.Hint(err) != "run it as 54321, or: chown -h root "+path {
			t.Errorf("%s: %v (%s)", path, err, fault.Hint(err))
		}
	}
}

// asRoot fails a test that needs root: in CI, everything runs as root.
func asRoot(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("the tests run as root: %v", err)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	other := filepath.Join(filepath.Dir(s.top), "other")
	link := filepath.Join(other, "link")
	check(t, os.Mkdir(other, 0o755), os.Symlink("../x/../x/y/./file", link))
	relink := func(target string) { check(t, os.Remove(link), os.Symlink(target, link)) }
	if b, err := ReadSecret(link, 10); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	relink(s.file)
	check(t, Check(link, Secret))
	relink(s.dir)
	check(t, Check(link+"/file", Secret), CheckDir(link))

	// Where it leads through counts, and so does where it lies.
	check(t, os.Chmod(s.dir, 0o770))
	if err := Check(link+"/file", Secret); !errors.Is(err, ErrUnsafe) || fault.Hint(err) != "chmod go-w "+s.dir {
		t.Errorf("a link into a directory of a group's: %v", err)
	}
	check(t, os.Chmod(s.dir, 0o700), os.Chmod(other, 0o777))
	if err := Check(link+"/file", Secret); !errors.Is(err, ErrUnsafe) || fault.Hint(err) != "chmod go-w "+other {
		t.Errorf("a link in everybody's directory: %v", err)
	}
	check(t, unix.Chmod(other, 0o1777), Check(link+"/file", Secret))
	asRoot(t, os.Lchown(link, stranger, -1))
	if err := Check(link+"/file", Secret); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), link+" (mode ") {
		t.Errorf("a stranger's link in a sticky directory: %v", err)
	}

	check(t, os.Remove(link), os.Symlink("link", link))
	if err := Check(link, Secret); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: %v", err)
	}
}

// A file that is made in a place of others' is not made.
func TestOpenFile(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	made := filepath.Join(s.dir, "made")
	f, err := OpenFile(made, os.O_RDWR|os.O_CREATE, 0o600, Secret)
	check(t, err)
	_, err = f.WriteString("new")
	check(t, err, f.Close())
	if b, err := ReadSecret(made, 3); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ReadSecret(made, 2); !errors.Is(err, fsx.ErrTooLarge) || !strings.Contains(err.Error(), made) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := OpenFile(filepath.Join(s.dir, "none"), os.O_RDWR, 0, Secret); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Open(s.file+"/below", Public); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	check(t, os.Chmod(s.top, 0o777))
	other := filepath.Join(s.dir, "other")
	if f, err := OpenFile(other, os.O_RDWR|os.O_CREATE, 0o600, Secret); !errors.Is(err, ErrUnsafe) {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

func TestCheckDir(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	check(t, CheckDir(s.dir), CheckDir(s.dir+"/"), CheckDir(s.dir+"/../y"))
	for _, mode := range []uint32{0o775, 0o1777, 0o2770, 0o707} {
		check(t, unix.Chmod(s.dir, mode))
		if err := CheckDir(s.dir); (err == nil) != (mode&0o022 == 0) {
			t.Errorf("%o: %v", mode, err)
		}
	}
	if err := CheckDir(s.file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
}

func TestRelative(t *testing.T) {
	s := newScene(t)
	t.Chdir(s.dir)
	check(t, Check("file", Secret), Check("./../y/file", Secret))
	for _, path := range []string{"", "nothing", "./../z/file"} {
		if err := Check(path, Public); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", path, err)
		}
	}
	check(t, os.Chmod(s.top, 0o775))
	if err := Check("file", Secret); fault.Hint(err) != "chmod go-w "+s.top {
		t.Errorf("%v", err)
	}
}

// A pipe that the shell hands over is nobody else's; a file handed over is held
// to its own mode; other pipes and devices are refused.
func TestHanded(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	_, err = io.WriteString(w, "text")
	check(t, err, w.Close())
	if b, err := ReadSecret(fsx.FDPath(r), 10); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	s := newScene(t)
	f, err := os.Open(s.file)
	check(t, err, Check(fsx.FDPath(f), Secret))
	defer f.Close()
	check(t, os.Chmod(s.file, 0o640))
	if err := Check(fsx.FDPath(f), Secret); !errors.Is(err, ErrUnsafe) {
		t.Errorf("%v", err)
	}
	pipe := filepath.Join(s.dir, "pipe")
	check(t, unix.Mkfifo(pipe, 0o600))
	for _, path := range []string{pipe, s.dir, "/dev/null"} {
		if err := Check(path, Public); !errors.Is(err, fsx.ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What is opened is what was looked at: exchanging it meanwhile helps nobody.
func TestOpenedIsTheOneThatWasLookedAt(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	check(t, unix.Chmod(s.dir, 0o1777))
	evil := filepath.Join(s.dir, "evil")
	check(t, os.WriteFile(evil, []byte("evil"), 0o666), os.Chmod(evil, 0o666))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default: // the file and the other take turns under its name
				_ = unix.Renameat2(unix.AT_FDCWD, s.file, unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		if b, err := ReadFile(s.file, 10); err == nil && string(b) != "text" {
			t.Errorf("read %q", b)
		} else if err != nil && !errors.Is(err, ErrUnsafe) {
			t.Error(err)
		}
	}
	close(stop)
	<-done
}
