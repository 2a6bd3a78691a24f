package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// clearDir lazily unmounts everything below dir and empties it.
func clearDir(helper fusemount.Helper, dir string) error {
	var errs []error
	for _, at := range fusemount.Below(dir) {
		errs = append(errs, helper.Unmount(at, true))
	}
	return errors.Join(append(errs, emptyDir(dir))...)
}

// emptyDir removes what is in a private directory unless something is mounted
// there: it must never reach the files behind a mount.
func emptyDir(dir string) error {
	if at := fusemount.Below(dir); len(at) > 0 {
		return fmt.Errorf("%s is still mounted", at[0])
	}
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return err
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Dev != top.Dev {
			return fmt.Errorf("%s is on another file system", path)
		}
		return os.Chmod(path, 0o700)
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// Clear unmounts and removes what the Space of a dead process left below dir, an
// absolute name without symbolic links; the caller has to know that it is dead.
// dir itself stays.
func Clear(dir string) error {
	helper, err := fusemount.FindHelper()
	if err != nil && len(fusemount.Below(dir)) > 0 {
		return err
	}
	return clearDir(helper, dir)
}

// Mounts returns what is mounted at dir and below, without touching it.
func Mounts(dir string) []string { return fusemount.Below(dir) }
