package noderun

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealbatch/sealbatch/internal/jobdir"
)

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
	if _, err := os.Stat(dead.path(jobdir.ScratchName)); err != nil {
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
	dead.missing(jobdir.ScratchName)
	if _, err := os.Stat(dead.path(jobdir.CipherDirName)); err != nil {
		t.Error(err)
	}
}

func rename(t *testing.T, from, to string) string {
	t.Helper()
	check(t, os.Rename(from, to))
	return to
}
