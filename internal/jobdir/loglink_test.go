package jobdir

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// here runs a command on this machine.
type here struct{}

func (here) Run(ctx context.Context, argv []string, stdin io.Reader) ([]byte, []byte, int, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	return out.Bytes(), errOut.Bytes(), cmd.ProcessState.ExitCode(), errorUnlessExit(err)
}

func errorUnlessExit(err error) error {
	if _, ok := err.(*exec.ExitError); ok {
		return nil
	}
	return err
}

// TestLinkLog: the link leads to the newest job of the name, and replaces nothing but such a link.
func TestLinkLog(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "it's a $(work) directory")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o755))
	first, second := strings.Repeat("a", 32), strings.Repeat("0", 32)
	for _, name := range []string{"job.out", "-rf $(touch x) 'q'.out"} {
		for _, run := range []string{first, second} {
			must(LinkLog(t.Context(), here{}, dir, name, run))
			if to, err := os.Readlink(filepath.Join(dir, name)); err != nil || to != "sealbatch-"+run[:16]+"/job.log" {
				t.Errorf("%s: %q, %v", name, to, err)
			}
		}
	}
	must(os.WriteFile(filepath.Join(dir, "file.out"), []byte("kept"), 0o600))
	must(os.Mkdir(filepath.Join(dir, "dir.out"), 0o700))
	must(os.Symlink("file.out", filepath.Join(dir, "other.out")))
	must(os.Symlink("/nowhere", filepath.Join(dir, "dangling.out")))
	for _, name := range []string{"file.out", "dir.out", "other.out", "dangling.out"} {
		if err := LinkLog(t.Context(), here{}, dir, name, first); err == nil {
			t.Errorf("%s was replaced", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "other.out")); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "dangling.out")); err != nil || to != "/nowhere" {
		t.Errorf("%q, %v", to, err)
	}
	if in, err := os.ReadDir(filepath.Join(dir, "dir.out")); err != nil || len(in) > 0 {
		t.Errorf("%v, %v", in, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
		t.Error("a name was run")
	}
}

// TestRemovalUnlinksLog: with a job's directory goes the link to its log, and no other.
func TestRemovalUnlinksLog(t *testing.T) {
	t.Parallel()
	work, run := filepath.Join(t.TempDir(), "it's work"), strings.Repeat("0", 32)
	r := laidOut(t, Path(work, run))
	if err := LinkLog(t.Context(), here{}, work, "-my job.out", run); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"other.out": "sealbatch-aaaaaaaaaaaaaaaa/job.log", "file": "sealbatch-0000000000000000/job.log"} {
		if err := os.Symlink(to, filepath.Join(work, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is no directory any more
		if err := r.Do(t.Context(), here{}); err != nil {
			t.Fatal(err)
		}
		if left := files(t, work); left != "file other.out" {
			t.Errorf("left: %s", left)
		}
	}
}
