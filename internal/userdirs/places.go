package userdirs

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// nearest returns the lowest directory on the way to path that is there.
func (m machine) nearest(path string) string {
	for path != "/" && path != "." {
		if _, err := os.Lstat(m.at(path)); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// writable returns an error if a directory can neither be written nor made.
func (m machine) writable(dir string) error {
	place := m.nearest(dir)
	fi, err := os.Stat(m.at(place))
	if err == nil && !fi.IsDir() {
		err = &os.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	if err == nil {
		if err = unix.Faccessat(unix.AT_FDCWD, m.at(place), unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			err = &os.PathError{Op: "write", Path: place, Err: err}
		}
	}
	return err
}

// FromOutside reports whether a path lies on something that was mounted into this container.
func FromOutside(path string) bool {
	m := here()
	return m.container() && m.lasts(filepath.Clean(path))
}

// lasts reports whether a directory, which need not be there, is on something that
// was mounted into the container from outside.
func (m machine) lasts(dir string) bool {
	on := m.mountOf(m.nearest(dir))
	return on.point != "/" && on.point != "" && !(on.kind == "tmpfs" && on.root == "/")
}
