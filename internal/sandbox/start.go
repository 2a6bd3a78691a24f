package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/internal/harden"
)

// NewSpace makes the namespaces and mounts. It forbids core dumps of the calling
// process and of all that it starts. ctx bounds the start only. It fails with
// ErrNoNamespace where the kernel or the site does not allow namespaces.
func NewSpace(ctx context.Context, opt SpaceOptions) (*Space, error) {
	opt, err := opt.complete()
	if err != nil {
		return nil, err
	}
	if harden.IsUndumpable() {
		return nil, errors.New("a private mount space must be made before the process is made undumpable")
	}
	if err := harden.NoCoreDumps(); err != nil {
		return nil, err
	}
	s := &Space{opt: opt, limit: patience, thread: newThread(), failed: make(chan error, 16)}
	if err := s.startChild(); err != nil {
		s.thread.close()
		return nil, err
	}
	go s.client.receive()
	go s.waitChild()
	init := request{Op: opInit, Mode: opt.Mode, Helper: opt.helper, Path: opt.Dir, Bytes: opt.TmpfsBytes}
	if _, err := s.client.call(ctx, init); err != nil {
		s.Close()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			err = fmt.Errorf("%w: %w", ErrNoNamespace, err)
		}
		return nil, err
	}
	return s, nil
}

// complete returns the options with defaults for what is not set, after it has
// checked the rest.
func (opt SpaceOptions) complete() (SpaceOptions, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.TmpfsBytes == 0 {
		opt.TmpfsBytes = 16 << 20
	}
	if opt.Mode == Auto {
		opt.Mode = Namespace
	}
	var err error
	if opt.Dir, err = privateDir(opt.Dir); err != nil {
		return opt, err
	}
	if opt.Mode == Namespace {
		return opt, nil
	}
	if os.Geteuid() == 0 {
		// gocryptfs would mount by itself, and over /dev/fuse, where root may.
		return opt, ErrRoot
	}
	opt.helper, err = fusemount.FindHelper()
	return opt, err
}

// privateDir returns dir's absolute name without symbolic links, if it is a
// directory that only the caller may enter.
func privateDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%s is not a directory of one's own with mode 0700", dir)
	}
	return dir, nil
}

func (s *Space) startChild() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "child")
	defer theirs.Close()
	w, err := newWire(os.NewFile(uintptr(pair[0]), "space"))
	if err != nil {
		return err
	}
	s.client = newClient(w)
	s.child = exec.Command("/proc/self/exe", ChildArg)
	s.child.Args[0] = "sealbatch"
	s.child.Env = []string{}
	s.child.Stderr = os.Stderr
	s.child.ExtraFiles = []*os.File{theirs}
	s.child.SysProcAttr = childAttr(s.opt.Mode)
	if err := s.thread.do(s.child.Start); err != nil {
		w.conn.Close()
		if s.opt.Mode != Namespace {
			return fmt.Errorf("start the mounts' child process: %w", err)
		}
		return fmt.Errorf("%w: %w (user.max_user_namespaces, AppArmor or the site may forbid them)",
			ErrNoNamespace, err)
	}
	return nil
}

// childAttr returns how the child starts. Without namespaces it has to survive the
// caller's death, which it sees on its socket, to clean up.
func childAttr(mode Mode) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true} // a terminal's signals are the caller's to handle
	if mode == Namespace {
		uid, gid := os.Geteuid(), os.Getegid()
		attr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
		attr.Pdeathsig = unix.SIGKILL
	}
	return attr
}

// waitChild reports a child that ends although the Space was not closed.
func (s *Space) waitChild() {
	err := s.child.Wait()
	s.mu.Lock()
	unexpected := !s.closed
	s.mu.Unlock()
	if unexpected {
		s.fail(fmt.Errorf("the process that holds the private mounts ended: %w", orExit(err)))
	}
	close(s.client.gone)
}

func orExit(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}
