package noderun

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stray makes a node-local directory as a killed job leaves it.
func stray(t *testing.T, place, name string, lock string, age time.Duration) string {
	t.Helper()
	dir := filepath.Join(place, name)
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.Mkdir(dir+"/"+spaceName, 0o700))
	for _, program := range []string{"sealbatch", "gocryptfs", tryName} {
		check(t, os.WriteFile(dir+"/"+program, []byte("x"), 0o500))
	}
	if lock != "" {
		check(t, os.WriteFile(dir+"/"+lockName, []byte(lock), 0o600))
	}
	then := time.Now().Add(-age)
	check(t, os.Chtimes(dir, then, then))
	return dir
}

func TestClearStrays(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	check(t, err)
	place := t.TempDir()
	nodeDir := filepath.Join(t.TempDir(), nodesName, "cn1")
	check(t, os.MkdirAll(nodeDir+"/"+scratchName+"/d", 0o700))
	check(t, os.MkdirAll(nodeDir+"/"+outputName, 0o700))
	check(t, os.WriteFile(nodeDir+"/"+scratchName+"/d/f", []byte("ciphertext"), 0o600))
	check(t, os.Chmod(nodeDir+"/"+scratchName+"/d", 0o500)) // as applications do

	gone := map[string]string{
		"dead":         stray(t, place, "sealbatch.aaaaaaaaaa", host+"\n"+nodeDir+"\n", 0),
		"dead, early":  stray(t, place, "sealbatch.bbbbbbbbbb", host+"\n", 0),
		"old, no lock": stray(t, place, "sealbatch.cccccccccc", "", 2*youngest),
	}
	live := stray(t, place, "sealbatch.dddddddddd", "", 2*youngest)
	lock, err := lockSelf(live)
	check(t, err)
	open := stray(t, place, "sealbatch.gggggggggg", host+"\n", 0)
	check(t, os.Chmod(open, 0o755))
	notes := stray(t, place, "notes", host+"\n", 2*youngest)
	kept := map[string]string{
		"live":                live,
		"young":               stray(t, place, "sealbatch.eeeeeeeeee", "", youngest/2),
		"another host's":      stray(t, place, "sealbatch.ffffffffff", host+"x\n"+nodeDir+"\n", 2*youngest),
		"of an unwritten one": stray(t, place, "sealbatch.hhhhhhhhhh", "\n", 2*youngest),
		"not private":         open,
		"of another name":     notes,
	}
	check(t, os.Symlink(notes, place+"/sealbatch.iiiiiiiiii"))
	check(t, os.WriteFile(place+"/sealbatch.jjjjjjjjjj", nil, 0o600))

	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if n := clearStrays([]string{place, "/no/such"}, log); n != len(gone) {
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
	if left, err := os.ReadDir(nodeDir); err != nil || len(left) != 1 || left[0].Name() != outputName {
		t.Errorf("the node's directory has %v, %v; the outputs have to stay, and nothing else", left, err)
	}
	// Closing alone would not give it up at once: a process that another test is just
	// starting holds a copy of every descriptor until it executes its program.
	check(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	check(t, lock.Close())
	if n := clearStrays([]string{place}, log); n != 1 {
		t.Errorf("%d are cleared after the lock was given up, want 1", n)
	}
}

func TestStrayWithSomethingElseInItStays(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	check(t, err)
	place := t.TempDir()
	dir := stray(t, place, "sealbatch.aaaaaaaaaa", host+"\n", 0)
	check(t, os.WriteFile(dir+"/"+spaceName+"/somebody's", []byte("x"), 0o600))
	if n := clearStrays([]string{place}, slog.New(slog.NewTextHandler(t.Output(), nil))); n != 0 {
		t.Errorf("%d are cleared", n)
	}
	if _, err := os.Stat(dir + "/" + spaceName + "/somebody's"); err != nil {
		t.Error(err)
	}
}

func TestRestartClearsScratchOfEarlierRuns(t *testing.T) {
	t.Parallel()
	job := t.TempDir()
	for _, name := range []string{"cn1", "cn2", "cn1.r1", "cn1.r2", "cn1.r3", "cn.rack"} {
		check(t, os.MkdirAll(filepath.Join(job, nodesName, name, scratchName), 0o700))
		check(t, os.MkdirAll(filepath.Join(job, nodesName, name, outputName), 0o700))
	}
	check(t, clearEarlier(job, 2))
	for name, want := range map[string]bool{"cn1": false, "cn2": false, "cn.rack": false, "cn1.r1": false, "cn1.r2": true, "cn1.r3": true} {
		if _, err := os.Stat(filepath.Join(job, nodesName, name, scratchName)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
		if _, err := os.Stat(filepath.Join(job, nodesName, name, outputName)); err != nil {
			t.Error(err)
		}
	}
}

func TestNextRunClearsAfterAKilledOne(t *testing.T) {
	t.Parallel()
	dead := newJob(t, nil, "sh", "-c", `exec 9> /host/ready; echo ready >&9; while :; do sleep 0.01; done`)
	place := filepath.Dir(dead.self)
	dead.self = rename(t, dead.self, place+"/sealbatch.aaaaaaaaaa")
	cmd := dead.start()
	defer dead.ready().Close()

	// While it lives, the next run does not touch it.
	next := newJob(t, nil, "true")
	next.self = rename(t, next.self, place+"/sealbatch.bbbbbbbbbb")
	if code := next.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if _, err := os.Stat(dead.self + "/gocryptfs"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead.path(scratchName)); err != nil {
		t.Fatal(err)
	}
	check(t, cmd.Process.Kill())
	_ = dead.wait(cmd)

	last := newJob(t, nil, "true")
	last.self = rename(t, last.self, place+"/sealbatch.cccccccccc")
	if code := last.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if left, err := filepath.Glob(place + "/sealbatch.*"); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	dead.missing(scratchName)
	if _, err := os.Stat(dead.path(outputName)); err != nil {
		t.Error(err)
	}
}

func rename(t *testing.T, from, to string) string {
	t.Helper()
	check(t, os.Rename(from, to))
	return to
}
