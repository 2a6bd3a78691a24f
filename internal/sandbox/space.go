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
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/internal/harden"
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
	wire   *wire
	thread thread
	child  *exec.Cmd
	gone   chan struct{} // closed when the child has ended
	failed chan error

	mu     sync.Mutex
	lastID uint64
	calls  map[uint64]chan answer
	procs  map[uint64]*Proc
	mounts []*mounted // in the order in which they were mounted
	served []server   // of the container runtime's mounts
	closed bool

	runtimeMounts []runtimeMount
	listener      *net.UnixListener // of the container runtime's mounts; nil without

	closing  sync.Once
	closeErr error
}

type answer struct {
	reply reply
	file  *os.File
}

// NewSpace makes the namespaces and mounts. It forbids core dumps of the calling
// process and of all that it starts. ctx bounds the start only. It fails with
// ErrNoNamespace where the kernel or the site does not allow namespaces.
func NewSpace(ctx context.Context, opt SpaceOptions) (*Space, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.TmpfsBytes == 0 {
		opt.TmpfsBytes = 16 << 20
	}
	var err error
	if opt.Dir, err = privateDir(opt.Dir); err != nil {
		return nil, err
	}
	if opt.Mode == Auto {
		opt.Mode = Namespace
	}
	if opt.Mode != Namespace {
		if os.Geteuid() == 0 {
			// gocryptfs would mount by itself, and over /dev/fuse, where root may.
			return nil, ErrRoot
		}
		if opt.helper, err = fusemount.FindHelper(); err != nil {
			return nil, err
		}
	}
	if harden.IsUndumpable() {
		return nil, errors.New("a private mount space must be made before the process is made undumpable")
	}
	if err := harden.NoCoreDumps(); err != nil {
		return nil, err
	}
	s := &Space{
		opt: opt, limit: patience, thread: newThread(), gone: make(chan struct{}), failed: make(chan error, 16),
		calls: map[uint64]chan answer{}, procs: map[uint64]*Proc{},
	}
	if err := s.startChild(); err != nil {
		s.thread.close()
		return nil, err
	}
	go s.receive()
	go s.waitChild()
	init := request{Op: opInit, Mode: opt.Mode, Helper: opt.helper, Path: opt.Dir, Bytes: opt.TmpfsBytes}
	if _, err := s.call(ctx, init); err != nil {
		s.Close()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			err = fmt.Errorf("%w: %w", ErrNoNamespace, err)
		}
		return nil, err
	}
	return s, nil
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
	if s.wire, err = newWire(os.NewFile(uintptr(pair[0]), "space")); err != nil {
		return err
	}
	s.child = exec.Command("/proc/self/exe", ChildArg)
	s.child.Args[0] = "sealbatch"
	s.child.Env = []string{}
	s.child.Stderr = os.Stderr
	s.child.ExtraFiles = []*os.File{theirs}
	s.child.SysProcAttr = childAttr(s.opt.Mode)
	if err := s.thread.do(s.child.Start); err != nil {
		s.wire.conn.Close()
		if s.opt.Mode != Namespace {
			return fmt.Errorf("start the mounts' child process: %w", err)
		}
		return fmt.Errorf("%w: %w (user.max_user_namespaces, AppArmor or the site may forbid them)",
			ErrNoNamespace, err)
	}
	return nil
}

// childAttr says how the child starts. Without namespaces it has to survive the
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

// receive hands the child's messages to whom they are for.
func (s *Space) receive() {
	for {
		var r reply
		file, err := s.wire.recv(&r)
		if err != nil {
			s.wire.conn.Close() // the child ends when it sees this
			return
		}
		s.mu.Lock()
		switch call, ok := s.calls[r.ID]; {
		case r.Exited:
			if p, ok := s.procs[r.ID]; ok {
				delete(s.procs, r.ID)
				p.exit = exitOf(r.Status)
				close(p.done)
			}
		case ok:
			delete(s.calls, r.ID)
			call <- answer{r, file}
			file = nil
		}
		s.mu.Unlock()
		if file != nil {
			file.Close()
		}
	}
}

func (s *Space) waitChild() {
	err := s.child.Wait()
	s.mu.Lock()
	unexpected := !s.closed
	s.mu.Unlock()
	if unexpected {
		s.fail(fmt.Errorf("the process that holds the private mounts ended: %w", orExit(err)))
	}
	close(s.gone)
}

func orExit(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (s *Space) fail(err error) {
	s.opt.Log.Error("private mount space failed", "error", err)
	select {
	case s.failed <- err:
	default: // nobody listens; the first ones are kept
	}
}

// Failed tells of a FUSE server or of the child that ended unasked, and of reads
// from a sealed volume that failed (ErrRead), before the reader hears of them.
func (s *Space) Failed() <-chan error { return s.failed }

// call sends r to the child and waits for the answer.
func (s *Space) call(ctx context.Context, r request) (*os.File, error) {
	return s.callFor(ctx, nil, r)
}

// callFor is call, and notes that the end of p, if any, will be reported under
// the request's ID.
func (s *Space) callFor(ctx context.Context, p *Proc, r request) (*os.File, error) {
	answers := make(chan answer, 1)
	s.mu.Lock()
	s.lastID++
	r.ID = s.lastID
	s.calls[r.ID] = answers
	if p != nil {
		p.id = r.ID
		s.procs[r.ID] = p
	}
	s.mu.Unlock()
	defer s.forget(r.ID, answers)
	if err := s.wire.send(r, -1); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	select {
	case a := <-answers:
		return a.file, a.reply.err()
	case <-s.gone:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget ends the wait for answer id; one that still comes is dropped.
func (s *Space) forget(id uint64, answers chan answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
	select {
	case a := <-answers: // it came while the caller gave up
		if a.file != nil {
			a.file.Close()
		}
	default:
	}
}

// Path is the name of rel, a slash-separated local path, as seen inside.
func (s *Space) Path(rel string) string { return filepath.Join(s.opt.Dir, rel) }

// Outside is the name of rel for the calling process. Absolute symbolic links
// met on the way lead to the caller's own root: open untrusted trees with
// os.OpenRoot(s.Outside(rel)).
func (s *Space) Outside(rel string) string {
	if s.opt.Mode != Namespace {
		return s.Path(rel)
	}
	return fmt.Sprintf("/proc/%d/root%s", s.child.Process.Pid, s.Path(rel))
}

// path checks rel.
func (s *Space) path(rel string) (string, error) {
	if !filepath.IsLocal(rel) || filepath.Clean(rel) == "." {
		return "", fmt.Errorf("%q is not a path below the private directory", rel)
	}
	return s.Path(rel), nil
}

// ask sends an operation on rel.
func (s *Space) ask(rel string, r request) (*os.File, error) {
	var err error
	if r.Path, err = s.path(rel); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	return s.call(ctx, r)
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
	_, err := s.call(context.Background(), request{Op: opFreeze})
	return err
}

// KillAll kills every process inside and returns when they are gone, and with
// them what the container runtime had mounted.
func (s *Space) KillAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.limit)
	defer cancel()
	_, err := s.call(ctx, request{Op: opKillAll, Limit: s.limit})
	return errors.Join(err, s.awaitServed())
}

// Close kills every process inside, unmounts everything, waits for the FUSE
// servers to end, and ends the child. Further calls return the same.
func (s *Space) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Space) close() error {
	s.mu.Lock()
	s.closed = true
	mounts := slices.Clone(s.mounts)
	s.mu.Unlock()
	var errs []error
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	if s.alive() {
		errs = append(errs, s.KillAll())
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := s.unmount(mounts[i], false); err != nil {
				errs = append(errs, s.unmount(mounts[i], true))
			}
		}
	}
	s.wire.conn.Close()
	errs = append(errs, s.endChild(mounts))
	if s.opt.Mode != Namespace { // the child has done it unless it was killed
		errs = append(errs, clearDir(s.opt.helper, s.opt.Dir))
	}
	// With the child, its mounts are gone, whatever went wrong above.
	for _, m := range mounts {
		errs = append(errs, m.waitEnd(s.limit))
	}
	s.thread.close()
	return errors.Join(errs...)
}

// endChild waits for the child, which has been told to end. It cannot end before
// all processes in its namespace have, and those not while they wait for an
// answer from a server that hangs: then the servers have to go first.
func (s *Space) endChild(mounts []*mounted) error {
	for _, force := range []func(){
		func() {},
		func() { s.child.Process.Kill() },
		func() {
			for _, m := range mounts {
				m.server.kill()
			}
		},
	} {
		force()
		select {
		case <-s.gone:
			return nil
		case <-time.After(s.limit):
		}
	}
	return errors.New("the process that holds the private mounts does not end")
}

func (s *Space) alive() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// Proc is a command that runs inside a Space.
type Proc struct {
	space *Space
	id    uint64
	done  chan struct{}
	exit  Exit
}

// Start runs a command inside, in a session and process group of its own,
// without capabilities.
func (s *Space) Start(c Cmd) (*Proc, error) {
	p := &Proc{space: s, done: make(chan struct{})}
	_, err := s.callFor(context.Background(), p, request{Op: opStart, Cmd: c})
	if err != nil {
		s.mu.Lock()
		delete(s.procs, p.id)
		s.mu.Unlock()
		return nil, err
	}
	return p, nil
}

// Signal sends sig to the command itself; os.ErrProcessDone after it has ended.
// The rest of its process group is left alone: a container runtime passes the
// signal on to the application, and in its group is the server of its image.
func (p *Proc) Signal(sig syscall.Signal) error {
	_, err := p.space.call(context.Background(), request{Op: opSignal, Proc: p.id, Signal: int(sig)})
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Wait waits for the command itself, not for what it left behind (KillAll).
func (p *Proc) Wait() (Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-p.space.gone:
	}
	select {
	case <-p.done: // both were ready
		return p.exit, nil
	default:
		return Exit{}, ErrClosed
	}
}
