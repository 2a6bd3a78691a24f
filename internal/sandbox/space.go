package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// Errors that callers test for.
var (
	// ErrNoNamespace: this machine does not let the caller make user, mount, pid
	// and IPC namespaces, or mount in them. Another mode may work.
	ErrNoNamespace = errors.New("private namespaces are not available here")
	// ErrRoot: the modes Fusermount and Runtime are for ordinary users only.
	ErrRoot = errors.New("root can mount only in private namespaces")
	// ErrUnmappedGroup: the cipher directory belongs to a group that the
	// namespace does not know, so that nothing could be created in it.
	ErrUnmappedGroup = errors.New("the cipher directory belongs to another group")
	// ErrRead: a file of a mounted sealed volume could not be read; the program
	// that tried got EIO. What is wrong with it is wrapped as well.
	ErrRead = errors.New("a file of a mounted sealed volume could not be read")
	// ErrClosed: the Space was closed or its child died.
	ErrClosed = errors.New("the private mount space is gone")
)

// patience is how long a Space waits for what should be quick but depends on
// others: a FUSE server to start, or to end after its mount is gone (it closes
// files that may lie on a slow network file system); killed processes to vanish.
const patience = 20 * time.Second

// SpaceOptions describe a Space.
type SpaceOptions struct {
	// Mode is how to mount; for NewSpace, Auto is Namespace.
	Mode Mode
	// Dir is an existing directory of the caller's, 0700. In mode Namespace, inside
	// it is the root of a private tmpfs, and outside it stays as it is. In the
	// others it is the same everywhere, and empty again at the end.
	Dir string
	// Gocryptfs is the path of the gocryptfs program, for MountGocryptfs.
	Gocryptfs string
	Log       *slog.Logger // nil discards
	// TmpfsBytes bounds the tmpfs at Dir, 16 MiB if 0. (Data belongs in volumes.)
	TmpfsBytes int64

	helper fusemount.Helper // unless Mode is Namespace
}

// Space is a private place in which volumes are mounted and commands run: in mode
// Namespace a user, mount, pid and IPC namespace with a tmpfs at Dir, in the others
// Dir itself and the descendants of one child process. Keys and FUSE servers stay
// outside of it. When the calling process dies, even by SIGKILL, all of it goes
// with it; without namespaces it is the child who sees to that, and should it be
// killed as well, dead mounts stay (Clear).
//
// It keeps out other users; processes of the same user can enter it by
// /proc/PID/root and nsenter.
type Space struct {
	opt    SpaceOptions
	limit  time.Duration // patience
	thread thread
	child  *exec.Cmd
	client *client // of the child
	failed chan error

	mu     sync.Mutex
	mounts []*mounted // in the order in which they were mounted
	served []server   // of the container runtime's mounts
	closed bool

	runtimeMounts []runtimeMount
	listener      *net.UnixListener // of the container runtime's mounts; nil without

	closing  sync.Once
	closeErr error
}

func (s *Space) fail(err error) {
	s.opt.Log.Error("private mount space failed", "error", err)
	select {
	case s.failed <- err:
	default: // nobody listens; the first ones are kept
	}
}

// Failed returns a channel that reports a FUSE server or the child that ended
// unasked, and reads from a sealed volume that failed (ErrRead), before the reader
// hears of them.
func (s *Space) Failed() <-chan error { return s.failed }

// Path returns the name of rel, a slash-separated local path, as seen inside.
func (s *Space) Path(rel string) string { return filepath.Join(s.opt.Dir, rel) }

// Outside returns the name of rel for the calling process. Absolute symbolic links
// met on the way lead to the caller's own root: open untrusted trees with
// os.OpenRoot(s.Outside(rel)).
func (s *Space) Outside(rel string) string {
	if s.opt.Mode != Namespace {
		return s.Path(rel)
	}
	return fmt.Sprintf("/proc/%d/root%s", s.child.Process.Pid, s.Path(rel))
}

// Mkdir makes the directory rel in the tmpfs, and its parents with mode 0700.
func (s *Space) Mkdir(rel string, perm os.FileMode) error {
	_, err := s.ask(rel, request{Op: opMkdir, Perm: uint32(perm.Perm())})
	return err
}

// WriteFile writes a small file (up to a few MiB) in the tmpfs.
func (s *Space) WriteFile(rel string, data []byte, perm os.FileMode) error {
	_, err := s.ask(rel, request{Op: opWriteFile, Data: data, Perm: uint32(perm.Perm())})
	return err
}

// Freeze makes the tmpfs read-only for good: from here on a write beneath a
// mount that is gone fails. Volumes can then be mounted only at directories that
// exist.
func (s *Space) Freeze() error {
	_, err := s.client.call(context.Background(), request{Op: opFreeze})
	return err
}

// path returns Path of rel after it has checked that.
func (s *Space) path(rel string) (string, error) {
	if !filepath.IsLocal(rel) || filepath.Clean(rel) == "." {
		return "", fmt.Errorf("%q is not a path below the private directory", rel)
	}
	return s.Path(rel), nil
}

// ask has the child do r at rel.
func (s *Space) ask(rel string, r request) (*os.File, error) {
	var err error
	if r.Path, err = s.path(rel); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	return s.client.call(ctx, r)
}
