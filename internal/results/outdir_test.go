package results

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// TestOutDir: what a killed run left is cleared, one that lives is not disturbed,
// and what is somebody's own is not touched.
func TestOutDir(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.write(j.newNode("cn1"))
	out := t.TempDir()
	left := filepath.Join(out, workName, "cn1", "tree", "closed")
	check(t, os.MkdirAll(filepath.Join(left, "x"), 0o700))
	check(t, os.Chmod(left, 0))
	precious := filepath.Join(t.TempDir(), "precious")
	check(t, os.Mkdir(precious, 0o700))
	check(t, os.WriteFile(precious+"/file", nil, 0o600))
	check(t, os.Symlink(precious, filepath.Join(out, workName, "link")))

	other, err := openOutDir(out)
	check(t, err)
	if _, err := j.fetch(transfer.Local{}, out); err == nil || !strings.Contains(err.Error(), "another sealbatch results") {
		t.Errorf("while another one works: %v", err)
	}
	other.close()
	if _, err := os.Stat(precious + "/file"); err != nil {
		t.Error(err)
	}
	nodes, err := j.fetch(transfer.Local{}, out)
	n := one(t, nodes, err)
	if n.Err != nil {
		t.Fatal(n.Err)
	}
	opened(t, n.Dir, "cn1")

	// Killed before the directory got its name: it is made afresh.
	check(t, os.RemoveAll(n.Dir))
	nodes, err = j.fetch(transfer.Local{}, out)
	if n := one(t, nodes, err); n.Err != nil || n.Before {
		t.Errorf("%+v", n)
	}
	// Another job's results of the same node are not taken for these.
	second := newJob(t)
	second.write(second.newNode("cn1"))
	nodes, err = second.fetch(transfer.Local{}, out)
	if n := one(t, nodes, err); !errors.Is(n.Err, volume.ErrPath) || n.Dir != "" || fault.ClassOf(n.Err) != fault.Usage {
		t.Errorf("%+v", n)
	}
	// A file or a link where the working directory should be.
	bad := t.TempDir()
	check(t, os.Symlink(precious, filepath.Join(bad, workName)))
	if _, err := j.fetch(transfer.Local{}, bad); err == nil {
		t.Error("a link was taken for the working directory")
	}
	if _, err := os.Stat(precious + "/file"); err != nil {
		t.Error(err)
	}
}
