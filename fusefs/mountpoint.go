package fusefs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// subtype is what the mounts are called: fuse.sealbatch.
const subtype = "sealbatch"

// claimMountPoint returns the directory that dir leads to, by a name without symbolic links, and the directory itself:
// as long as it is open, no other process claims it. What a killed server left there is cleared away. It must be empty,
// since what lies beneath a mount cannot be seen.
func claimMountPoint(dir string, log *slog.Logger) (path string, beneath *os.File, err error) {
	path, beneath, err = tryMountPoint(dir)
	if errors.Is(err, unix.ENOTCONN) {
		if err := clearDead(err, log); err != nil {
			return "", nil, err
		}
		path, beneath, err = tryMountPoint(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fault.New(fault.Usage, fmt.Errorf("there is no directory %s", dir), "make one: mkdir "+dir)
	case errors.Is(err, unix.ENOTDIR):
		err = fault.New(fault.Usage, fmt.Errorf("%s is not a directory", dir), "name an empty directory")
	}
	return path, beneath, err
}

func tryMountPoint(dir string) (path string, beneath *os.File, err error) {
	if path, err = resolve(dir); err != nil {
		return "", nil, err
	}
	if beneath, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0); err != nil {
		return "", nil, err
	}
	if err := checkMountPoint(path, beneath); err != nil {
		beneath.Close()
		return "", nil, err
	}
	return path, beneath, nil
}

func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// clearDead unmounts a sealed volume whose server is gone, at the place that the error of a system call names.
func clearDead(found error, log *slog.Logger) error {
	var at *fs.PathError
	if !errors.As(found, &at) {
		return found
	}
	by := "fusermount3 -u " + at.Path
	if fusemount.TypeAt(at.Path) != "fuse."+subtype {
		return fault.New(fault.Usage, fmt.Errorf("a mount whose server has ended is at %s", at.Path), "unmount it: "+by)
	}
	err := fusemount.Unmount(at.Path, true)
	if err != nil {
		if helper, found := fusemount.FindHelper(); found == nil {
			err = helper.Unmount(at.Path, true)
		}
	}
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("a mount whose server was killed is at %s: %w", at.Path, err), "unmount it: "+by)
	}
	log.Info("cleared away what a killed sealbatch had left mounted on " + at.Path)
	return nil
}

// checkMountPoint refuses a directory that is in use.
func checkMountPoint(path string, beneath *os.File) error {
	var st unix.Statfs_t // a file system asks its server for this, while it remembers much of what else there is
	if err := unix.Fstatfs(int(beneath.Fd()), &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	// Where the file system has no such lock, two that begin at one moment are not told apart.
	busy := errors.Is(unix.Flock(int(beneath.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	if busy || fusemount.TypeAt(path) == "fuse."+subtype {
		return fault.New(fault.Usage, fmt.Errorf("a sealed volume is mounted on %s already", path),
			"name another directory, or unmount that one: fusermount3 -u "+path)
	}
	names, err := beneath.Readdirnames(1)
	if len(names) > 0 {
		return fault.New(fault.Usage, fmt.Errorf("%s is not empty: what is there could not be seen any more", path),
			"name an empty directory")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
