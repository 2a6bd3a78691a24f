package deploy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// How kubelet lays volumes out (kubernetes/kubernetes: pkg/volume/emptydir/empty_dir.go, projected/projected.go,
// util/atomic_writer.go, volume_linux.go): projected volumes and Secrets lie in a tmpfs of mode 1777, and are written
// into a directory of their own, which "..data" names; each file is a link through that. Then all belongs to the
// pod's fsGroup, which may read it, and write it where it is no projected volume or Secret.

func no(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// project makes or changes a projected volume or a Secret.
func project(t *testing.T, dir string, files map[string]string, mode os.FileMode, fsGroup int) {
	t.Helper()
	no(t, os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o777|os.ModeSticky))
	made, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	no(t, err, os.Chmod(made, 0o755))
	data := filepath.Join(dir, "..data")
	old, _ := os.Readlink(data)
	for name, text := range files {
		file := filepath.Join(made, name)
		no(t, os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode))
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	giveTo(t, dir, fsGroup, 0o440)
	no(t, os.Symlink(filepath.Base(made), data+"_tmp"), os.Rename(data+"_tmp", data))
	if old != "" {
		no(t, os.RemoveAll(filepath.Join(dir, old)))
	}
}

// giveTo gives a volume to a pod's group.
func giveTo(t *testing.T, dir string, fsGroup int, mask os.FileMode) {
	t.Helper()
	no(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, fsGroup); err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		mode := fi.Mode() | mask
		if d.IsDir() {
			mode |= os.ModeSetgid | 0o110
		}
		return os.Chmod(path, mode)
	}))
}
