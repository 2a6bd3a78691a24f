package fusemount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestMain(m *testing.M) { os.Exit(fusetest.Run(m)) }

// TestConnect mounts FUSE directly, as root may, with nobody who serves it.
func TestConnect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd, err := Connect(dir, "test", true)
	if os.Geteuid() != 0 {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("a user mounts: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("programs inherit the connection: %#x, %v", flags, err)
	}
	if at := Below(filepath.Dir(dir)); !slices.Equal(at, []string{dir}) || !IsMountPoint(dir) {
		t.Errorf("mounts %q", at)
	}
	if err := errors.Join(unix.Close(fd), Unmount(dir, true)); err != nil {
		t.Error(err)
	}
	if IsMountPoint(dir) {
		t.Error("it is still mounted")
	}
	if err := Unmount(dir, false); !errors.Is(err, unix.EINVAL) {
		t.Errorf("unmounted twice: %v", err)
	}
}

// TestMountGuarded: beneath the mount nothing can be written, when it is gone.
func TestMountGuarded(t *testing.T) {
	t.Parallel()
	h, err := FindHelper()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "made", "at")
	fuse, err := h.MountGuarded(dir, "test", false)
	if err != nil {
		t.Fatal(err)
	}
	if !IsMountPoint(dir) {
		t.Error("it is not mounted")
	}
	fuse.Close() // what is served by nobody any more can be unmounted
	if err := h.Unmount(dir, true); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o500 || IsMountPoint(dir) {
		t.Errorf("beneath: %v, %v", st, err)
	}
}

// TestHelperErrors: what the helper says is part of the error, and a helper that
// passes no descriptor is none. (Not parallel: a script that is being written when
// another test forks cannot be executed.)
func TestHelperErrors(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "helper")
	fusetest.WriteFile(t, script, []byte("#!/bin/sh\necho not for you >&2\nexit 1\n"), 0o700)
	for helper, want := range map[string]string{script: "not for you", "/bin/true": "EOF", "/no/such": "no such file"} {
		if f, err := Helper(helper).Mount(dir, "test", true); f != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", helper, err, want)
		}
	}
}

func TestWhenIdle(t *testing.T) {
	t.Parallel()
	calls := 0
	err := WhenIdle(func() error {
		if calls++; calls < 3 {
			return unix.EBUSY
		}
		return unix.EPERM
	})
	if calls != 3 || !errors.Is(err, unix.EPERM) {
		t.Errorf("%d calls, %v", calls, err)
	}
}
