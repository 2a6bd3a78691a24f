package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// makePrivate makes the namespaces private, with a tmpfs of so many bytes.
func (c *child) makePrivate(bytes int64) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", fusemount.SafeFlags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	err := unix.Mount("sealbatch", "/dev/shm", "tmpfs", fusemount.SafeFlags, "mode=1777")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount a tmpfs at /dev/shm: %w", err)
	}
	// It may have been in the /dev/shm that is covered now.
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	data := fmt.Sprintf("mode=0700,size=%d,nr_inodes=4096", bytes)
	if err := unix.Mount("sealbatch", c.dir, "tmpfs", fusemount.SafeFlags, data); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", c.dir, err)
	}
	return nil
}

// mountFuse makes the directory r.Path if it is missing, and mounts a new FUSE
// connection there.
func mountFuse(r request) (int, error) {
	if err := os.MkdirAll(filepath.Dir(r.Path), 0o700); err != nil {
		return -1, err
	}
	if err := os.Mkdir(r.Path, 0o500); err != nil && !errors.Is(err, os.ErrExist) {
		return -1, err
	}
	return fusemount.Connect(r.Path, r.Type, r.RO)
}

// remountReadOnly makes the tmpfs read-only.
func (c *child) remountReadOnly() error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | fusemount.SafeFlags)
	if err := fusemount.WhenIdle(func() error { return unix.Mount("", c.dir, "", flags, "") }); err != nil {
		return fmt.Errorf("make %s read-only: %w", c.dir, err)
	}
	return nil
}

// killNamespace kills whatever else is in the pid namespace until nothing is. Killing
// is repeated, since a process may fork while the signals go round.
func (c *child) killNamespace(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		if err := unix.Kill(-1, unix.SIGKILL); errors.Is(err, unix.ESRCH) {
			return nil
		}
		c.reap()
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes still run %v after they were killed", limit)
		case <-time.After(time.Millisecond):
		}
	}
}
