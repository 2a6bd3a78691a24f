package jobdir

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRemoveEarlierScratch(t *testing.T) {
	t.Parallel()
	job := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cn1", "cn2", "cn1.r1", "cn1.r2", "cn1.r3", "cn.rack"} {
		check(os.MkdirAll(filepath.Join(job, NodesDir, name, ScratchName), 0o700))
		check(os.MkdirAll(filepath.Join(job, NodesDir, name, CipherDirName), 0o700))
	}
	root, err := os.OpenRoot(job)
	check(err)
	defer root.Close()
	check(RemoveEarlierScratch(root, 2))
	for name, want := range map[string]bool{
		"cn1": false, "cn2": false, "cn.rack": false, "cn1.r1": false, "cn1.r2": true, "cn1.r3": true,
	} {
		if _, err := os.Stat(filepath.Join(job, NodesDir, name, ScratchName)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
		if _, err := os.Stat(filepath.Join(job, NodesDir, name, CipherDirName)); err != nil {
			t.Error(err)
		}
	}
}
