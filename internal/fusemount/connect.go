package fusemount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// busyLimit is how long a busy mount gets to become idle.
const busyLimit = 3 * time.Second

// MaxRead is the largest read that FUSE mounts are asked for (Linux 4.20 and
// later; older kernels use 128 KiB).
const MaxRead = 1 << 20

// SafeFlags are the flags that every mount has.
const SafeFlags = unix.MS_NOSUID | unix.MS_NODEV

// Connect mounts a new FUSE connection at path and returns its descriptor, which
// no program executed later inherits: one that held it would keep the connection
// alive after its server's death, and everybody waiting. Permissions are checked
// by the kernel against the attributes of a read-only server; gocryptfs
// leaves them to the file system beneath.
func Connect(path, subtype string, readOnly bool) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	flags := uintptr(SafeFlags | unix.MS_NOATIME)
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), MaxRead)
	if readOnly {
		flags |= unix.MS_RDONLY
		data += ",default_permissions"
	}
	if err := unix.Mount("sealbatch", path, "fuse."+subtype, flags, data); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount FUSE at %s: %w", path, err)
	}
	return fd, nil
}

// Settle waits for the server of a new mount and readies it. The root of a new
// mount belongs to uid 0, which is not mapped here, and refuses writes until its
// attributes have once been asked for. And a first poll (which the server
// refuses for good) must not come from the process that holds the server: Go
// adds every file it opens to epoll, and would wait there for itself.
func Settle(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	fd, err := unix.Open(filepath.Join(path, pollHackName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // a server that has no such file
	}
	if err != nil {
		return fmt.Errorf("try to poll %s: %w", path, err)
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err
}

// pollHackName is a file that every go-fuse server has in its root, hidden; it
// cannot be polled (go-fuse, fuse/poll.go).
const pollHackName = ".go-fuse-epoll-hack"

// WhenIdle repeats f for a while as long as it finds a mount busy: processes
// that just ended may still be letting go of it.
func WhenIdle(f func() error) error {
	deadline := time.Now().Add(busyLimit)
	for {
		err := f()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Unmount unmounts path, lazily with detach.
func Unmount(path string, detach bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if detach {
		flags |= unix.MNT_DETACH
	}
	if err := WhenIdle(func() error { return unix.Unmount(path, flags) }); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
