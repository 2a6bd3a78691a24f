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
	check(t, os.WriteFile(filepath.Join(out, workName, ownName), []byte(owned), 0o600))
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

// TestOutDirOfOthers: what has a name that is needed, and does not say itself that it is sealbatch's,
// is somebody's own. An empty directory is filled, not replaced.
func TestOutDirOfOthers(t *testing.T) {
	t.Parallel()
	j := newJob(t)
	j.write(j.newNode("cn1"))
	for name, put := range map[string]func(out string) error{
		"working directory": func(out string) error {
			return errors.Join(os.Mkdir(out+"/"+workName, 0o700), os.WriteFile(out+"/"+workName+"/precious", []byte("mine"), 0o600))
		},
		"mark": func(out string) error { return os.WriteFile(out+"/.cn1"+markSuffix, []byte("mine"), 0o600) },
		"link as a mark": func(out string) error {
			return errors.Join(os.WriteFile(out+"/mine", []byte("mine"), 0o600), os.Symlink("mine", out+"/.cn1"+markSuffix))
		},
		"link as a node": func(out string) error { return os.Symlink("nowhere", out+"/cn1") },
		"file as a node": func(out string) error { return os.WriteFile(out+"/cn1", []byte("mine"), 0o600) },
	} {
		out := t.TempDir()
		check(t, put(out))
		before := snapshot(t, out)
		nodes, err := j.fetch(transfer.Local{}, out)
		if len(nodes) > 0 {
			err = nodes[0].Err
		}
		if fault.ClassOf(err) != fault.Usage || fault.Hint(err) == "" {
			t.Errorf("%s: %v; %s", name, err, fault.Hint(err))
		}
		if after := snapshot(t, out); after != before {
			t.Errorf("%s: %s became %s", name, before, after)
		}
	}
	out := t.TempDir()
	check(t, os.Mkdir(out+"/cn1", 0o700))
	made, err := os.Stat(out + "/cn1")
	check(t, err)
	nodes, err := j.fetch(transfer.Local{}, out)
	n := one(t, nodes, err)
	check(t, n.Err)
	if now, err := os.Stat(n.Dir); err != nil || !os.SameFile(made, now) {
		t.Errorf("the empty directory was replaced; %v", err)
	}
	opened(t, n.Dir, "cn1")
}

// snapshot tells what is in a directory.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		all.WriteString(path + " " + d.Type().String())
		if d.Type().IsRegular() {
			b, rerr := os.ReadFile(path)
			all.Write(b)
			err = errors.Join(err, rerr)
		}
		all.WriteString("\n")
		return err
	}))
	return all.String()
}
