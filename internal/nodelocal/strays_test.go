package nodelocal

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
)

// stray makes a node-local directory as a killed job leaves it.
func stray(t *testing.T, place, name string, lock string, age time.Duration) string {
	t.Helper()
	dir := filepath.Join(place, name)
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.Mkdir(dir+"/"+SpaceName, 0o700))
	for _, program := range []string{"sealbatch", "gocryptfs", TryName} {
		check(t, os.WriteFile(dir+"/"+program, []byte("x"), 0o500))
	}
	if lock != "" {
		check(t, os.WriteFile(dir+"/"+lockName, []byte(lock), 0o600))
	}
	then := time.Now().Add(-age)
	check(t, os.Chtimes(dir, then, then))
	return dir
}

// deadJob makes a job directory that a killed job has left, and returns it and
// its manifest's digest.
func deadJob(t *testing.T) (dir string, digest manifest.Digest) {
	t.Helper()
	m, err := os.ReadFile("../manifest/testdata/manifest.json")
	check(t, err)
	dir = filepath.Join(t.TempDir(), "job")
	scratch := jobdir.NodePath(dir, "cn1", jobdir.ScratchName)
	check(t, os.MkdirAll(scratch+"/d", 0o700))
	check(t, os.MkdirAll(jobdir.NodePath(dir, "cn1", jobdir.CipherDirName), 0o700))
	check(t, os.WriteFile(scratch+"/d/f", []byte("ciphertext"), 0o600))
	check(t, os.Chmod(scratch+"/d", 0o500)) // as applications do
	check(t, os.WriteFile(filepath.Join(dir, jobdir.ManifestName), m, 0o600))
	return dir, manifest.DigestOf(m)
}

func TestClearStrays(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	check(t, err)
	place := t.TempDir()
	job, digest := deadJob(t)
	other, _ := deadJob(t)
	noted := host + "\n" + job + "\n" + digest.String() + "\ncn1\n"

	gone := map[string]string{
		"dead":                stray(t, place, "sealbatch.aaaaaaaaaa", noted, 0),
		"dead, early":         stray(t, place, "sealbatch.bbbbbbbbbb", host+"\n", 0),
		"of no job directory": stray(t, place, "sealbatch.kkkkkkkkkk", strings.Replace(noted, job, job+"/none", 1), 0),
		"of an exchanged one": stray(t, place, "sealbatch.llllllllll",
			host+"\n"+other+"\n"+manifest.DigestOf(nil).String()+"\ncn1\n", 0),
		"old, no lock": stray(t, place, "sealbatch.cccccccccc", "", 2*youngest),
	}
	live := stray(t, place, "sealbatch.dddddddddd", "", 2*youngest)
	own, err := Own(live)
	check(t, err)
	check(t, own.Lock())
	open := stray(t, place, "sealbatch.gggggggggg", host+"\n", 0)
	check(t, os.Chmod(open, 0o755))
	notes := stray(t, place, "notes", host+"\n", 2*youngest)
	kept := map[string]string{
		"live":                live,
		"young":               stray(t, place, "sealbatch.eeeeeeeeee", "", youngest/2),
		"another host's":      stray(t, place, "sealbatch.ffffffffff", strings.Replace(noted, "\n", "x\n", 1), 2*youngest),
		"of an unwritten one": stray(t, place, "sealbatch.hhhhhhhhhh", "\n", 2*youngest),
		"not private":         open,
		"of another name":     notes,
	}
	check(t, os.Symlink(notes, place+"/sealbatch.iiiiiiiiii"))
	check(t, os.WriteFile(place+"/sealbatch.jjjjjjjjjj", nil, 0o600))

	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if n := Clear([]string{place, "/no/such"}, log); n != len(gone) {
		t.Errorf("%d are cleared, want %d", n, len(gone))
	}
	for what, dir := range gone {
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: it is still there (%v)", what, err)
		}
	}
	for what, dir := range kept {
		if _, err := os.Stat(dir + "/gocryptfs"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	left, err := os.ReadDir(jobdir.NodePath(job, "cn1"))
	if err != nil || len(left) != 1 || left[0].Name() != jobdir.CipherDirName {
		t.Errorf("the node's directory has %v, %v; the outputs have to stay, and nothing else", left, err)
	}
	if left, err := os.ReadDir(jobdir.NodePath(other, "cn1")); err != nil || len(left) != 2 {
		t.Errorf("of another job's there are left %v, %v", left, err)
	}
	// Closing alone would not give it up at once: a process that another test is just
	// starting holds a copy of every descriptor until it executes its program.
	check(t, unix.Flock(int(own.lock.Fd()), unix.LOCK_UN))
	check(t, own.lock.Close())
	if n := Clear([]string{place}, log); n != 1 {
		t.Errorf("%d are cleared after the lock was given up, want 1", n)
	}
}

// TestClearWhereOthersExchange: where others can put one directory in the place of another, what
// lies there under a stray's name may be anything of one's own.
func TestClearWhereOthersExchange(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	check(t, err)
	for mode, want := range map[os.FileMode]int{0o755: 1, 0o777 | os.ModeSticky: 1, 0o770: 0, 0o777: 0, 0o707: 0} {
		for _, below := range []string{"", "/private"} {
			above := filepath.Join(t.TempDir(), "above")
			place := above + below
			check(t, os.MkdirAll(place, 0o700))
			dir := stray(t, place, "sealbatch.aaaaaaaaaa", host+"\n", 0)
			check(t, os.Chmod(above, mode))
			if n := Clear([]string{place}, slog.New(slog.NewTextHandler(t.Output(), nil))); n != want {
				t.Errorf("%v%s: %d are cleared, want %d", mode, below, n, want)
			}
			if _, err := os.Stat(dir + "/gocryptfs"); os.IsNotExist(err) != (want == 1) {
				t.Errorf("%v%s: %v", mode, below, err)
			}
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	place := t.TempDir()
	stray(t, place, "sealbatch.aaaaaaaaaa", host+"\n", 0)
	check(t, os.Chown(place, 65534, -1)) // who owns a directory exchanges what he likes in it
	if n := Clear([]string{place}, slog.New(slog.NewTextHandler(t.Output(), nil))); n != 0 {
		t.Errorf("%d are cleared in somebody else's directory", n)
	}
}

// TestOpenStrayItself: another user's directory in /tmp that has become a link, since it was
// listed, to one of the submitter's own, is not cleared for what that has of the same names.
func TestOpenStrayItself(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	own := stray(t, top, "bin", "", 2*youngest)
	check(t, os.Symlink("bin", top+"/sealbatch.evil"))
	if dead, err := clearStray(top + "/sealbatch.evil"); dead || err != nil {
		t.Errorf("cleared: %v, %v", dead, err)
	}
	if _, err := os.Stat(own + "/sealbatch"); err != nil {
		t.Error(err)
	}
}

func TestStrayWithSomethingElseInItStays(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	check(t, err)
	place := t.TempDir()
	dir := stray(t, place, "sealbatch.aaaaaaaaaa", host+"\n", 0)
	check(t, os.WriteFile(dir+"/"+SpaceName+"/somebody's", []byte("x"), 0o600))
	if n := Clear([]string{place}, slog.New(slog.NewTextHandler(t.Output(), nil))); n != 0 {
		t.Errorf("%d are cleared", n)
	}
	if _, err := os.Stat(dir + "/" + SpaceName + "/somebody's"); err != nil {
		t.Error(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
