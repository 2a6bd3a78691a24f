package fusemount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Helper is the path of fusermount3, the set-uid program that mounts for ordinary
// users.
type Helper string

// helperLimit is how long fusermount3 may take: it does nothing but a system call.
const helperLimit = 20 * time.Second

// ErrNoHelper: there is no fusermount3 that could mount for the caller.
var ErrNoHelper = errors.New("no set-uid fusermount3 on this machine (package fuse3)")

// FindHelper returns the helper. It looks where packages put it, then in PATH: a
// batch job's PATH often has no system directories. It fails with ErrNoHelper.
func FindHelper() (Helper, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		for _, dir := range append([]string{"/usr/bin", "/bin"}, filepath.SplitList(os.Getenv("PATH"))...) {
			path := filepath.Join(dir, name)
			if !filepath.IsAbs(path) {
				continue
			}
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil &&
				(st.Mode()&os.ModeSetuid != 0 || os.Geteuid() == 0) {
				return Helper(path), nil
			}
		}
	}
	return "", ErrNoHelper
}

// MountGuarded is Mount, and makes the directory path if it is missing. The
// directory beneath the mount is 0500 from here on, so that nothing can be written
// there should the mount go away.
func (h Helper) MountGuarded(path, subtype string, readOnly bool) (*os.File, error) {
	beneath, err := openMountPoint(path)
	if err != nil {
		return nil, err
	}
	defer beneath.Close()
	fuse, err := h.Mount(path, subtype, readOnly)
	if err != nil {
		return nil, err
	}
	if err := beneath.Chmod(0o500); err != nil {
		fuse.Close()
		return nil, errors.Join(fmt.Errorf("mount FUSE at %s: %w", path, err), h.Unmount(path, true))
	}
	return fuse, nil
}

// Mount mounts a new FUSE connection at path and returns its descriptor. That comes
// over a socket that the program finds by _FUSE_COMMFD (fusermount3(1)).
func (h Helper) Mount(path, subtype string, readOnly bool) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	options := fmt.Sprintf("nosuid,nodev,noatime,fsname=sealbatch,subtype=%s,max_read=%d", subtype, MaxRead)
	if readOnly {
		options += ",ro,default_permissions"
	}
	if err := h.run(theirs, "-o", options, "--", path); err != nil {
		return nil, fmt.Errorf("mount FUSE at %s: %w", path, err)
	}
	theirs.Close()
	fuse, err := receiveFuse(ours)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount FUSE at %s: %w", path, err), h.Unmount(path, true))
	}
	return fuse, nil
}

// openMountPoint makes path a directory that fusermount3 accepts (it wants one
// that the user can write to), and returns it open.
func openMountPoint(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o700); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// receiveFuse returns the one descriptor that fusermount3 sends, with one byte.
func receiveFuse(socket *os.File) (*os.File, error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a Unix socket")
	}
	if err := u.SetReadDeadline(time.Now().Add(helperLimit)); err != nil {
		return nil, err
	}
	_, file, err := ReceiveFile(u)
	return file, err
}

// Unmount unmounts path, lazily with detach. If it stays mounted, it is tried again
// for a while, as it may be busy: fusermount3 does not tell EBUSY apart.
func (h Helper) Unmount(path string, detach bool) error {
	args := []string{"-u", "-q"}
	if detach {
		args = append(args, "-z")
	}
	deadline := time.Now().Add(busyLimit)
	for {
		err := h.run(nil, append(args, "--", path)...)
		if err == nil || !IsMountPoint(path) {
			return nil
		}
		if detach || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run runs the helper; its message becomes part of the error.
func (h Helper) run(socket *os.File, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), helperLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, string(h), args...)
	var said bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = "/", []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}, &said
	if socket != nil {
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Env = append(cmd.Env, "_FUSE_COMMFD=3")
	}
	err := cmd.Run()
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %.500s", err, text)
	}
	return err
}
