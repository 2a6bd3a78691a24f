package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/internal/harden"
)

// ChildArg is the first argument with which a Space starts its own executable
// again; the program then has to call ChildMain before anything else.
const ChildArg = "ns-child"

// childSocket is the descriptor of the socket to the Space.
const childSocket = 3

// ChildMain is the process 1 of a Space, or what stands for it where there are no
// namespaces. It mounts, starts and reaps as it is asked to over the socket, and
// holds no keys. When the socket closes it returns: the process must then exit,
// and everything in the namespace ends.
func ChildMain() error {
	// Whatever the caller inherited or will be passed stays out of the commands.
	if err := unix.CloseRange(childSocket, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		if err := closeOnExec(); err != nil {
			return err
		}
	}
	w, err := newWire(os.NewFile(childSocket, "space"))
	if err != nil {
		return err
	}
	c := &child{wire: w, forks: make(chan func()), procs: map[int]uint64{}}
	c.catchSignals()
	ready := make(chan error)
	go c.forker(ready)
	if err := <-ready; err != nil {
		return err
	}
	for {
		var r request
		if _, err := w.recv(&r); err != nil { // the Space closed, or died
			if c.plain {
				return c.cleanUp()
			}
			return nil
		}
		if r.Op == opInit { // the rest depends on it
			c.serve(r)
			continue
		}
		go c.serve(r)
	}
}

// closeOnExec does what close_range does, for kernels before 5.11.
func closeOnExec() error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		var fd int
		if _, err := fmt.Sscan(n.Name(), &fd); err == nil && fd >= childSocket {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

type child struct {
	wire   *wire
	dir    string
	plain  bool             // no namespaces: the modes Fusermount and Runtime
	helper fusemount.Helper // if plain
	forks  chan func()

	mu    sync.Mutex     // held from fork to entry in procs, so that nobody reaps in between
	procs map[int]uint64 // running started processes, to the request's ID
}

// catchSignals reaps on SIGCHLD and drops the signals that sites send to every
// process of a job: the Space decides when this one ends. They are caught, not
// ignored, since an ignored signal would stay ignored in the commands.
func (c *child) catchSignals() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			c.reap()
		}
	}()
	// The last three are those that a shell without job control may leave ignored.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT,
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGXCPU, unix.SIGALRM, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
}

// forker runs on one thread, without the capability to mount, whatever starts
// processes.
func (c *child) forker(ready chan<- error) {
	runtime.LockOSThread()
	ready <- dropCapabilities()
	for f := range c.forks {
		f()
	}
}

// dropCapabilities makes programs that this thread executes start without any.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if os.Geteuid() == 0 { // exec would grant root everything in this namespace
		const noRoot = 0x3 // SECBIT_NOROOT and SECBIT_NOROOT_LOCKED, linux/securebits.h
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0); err != nil {
			return fmt.Errorf("set securebits: %w", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// serve answers one request. Each has its own goroutine, since one that touches
// a mount may block while its server is slow.
func (c *child) serve(r request) {
	answer := reply{ID: r.ID}
	fd := -1
	var err error
	switch r.Op {
	case opInit:
		err = c.init(r)
	case opMkdir:
		err = c.mkdir(r.Path, os.FileMode(r.Perm))
	case opWriteFile:
		err = writeFile(r)
	case opMount:
		if fd, err = mountFuse(r); err == nil {
			defer unix.Close(fd)
		}
	case opSettle:
		err = fusemount.Settle(r.Path)
	case opUnmount:
		err = fusemount.Unmount(r.Path, r.Detach)
	case opFreeze:
		if c.plain {
			err = c.freezePlain()
		} else {
			err = c.freeze()
		}
	case opStart:
		c.start(r)
		return
	case opSignal:
		err = c.signal(r.Proc, unix.Signal(r.Signal))
	case opKillAll:
		if c.plain {
			err = c.killDescendants(r.Limit)
		} else {
			err = c.killAll(r.Limit)
		}
	default:
		err = fmt.Errorf("unknown operation %d", r.Op)
	}
	answer.setError(err)
	c.answer(answer, fd)
}

// answer sends a reply. Without the Space there is nothing left to do, and the
// closed socket ends ChildMain.
func (c *child) answer(r reply, fd int) {
	if err := c.wire.send(r, fd); err != nil {
		_ = c.wire.conn.Close() // it is of no use any more
	}
}

// init makes the namespace private.
func (c *child) init(r request) error {
	c.dir, c.plain, c.helper = r.Path, r.Mode != Namespace, r.Helper
	if c.plain {
		return c.initPlain()
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := harden.NoCoreDumps(); err != nil {
		return err
	}
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
	data := fmt.Sprintf("mode=0700,size=%d,nr_inodes=4096", r.Bytes)
	if err := unix.Mount("sealbatch", c.dir, "tmpfs", fusemount.SafeFlags, data); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", c.dir, err)
	}
	return nil
}

func (c *child) mkdir(path string, perm os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil {
		return err
	}
	return os.Chmod(path, perm) // the umask does not count
}

func writeFile(r request) error {
	if err := os.WriteFile(r.Path, r.Data, 0o600); err != nil {
		return err
	}
	return os.Chmod(r.Path, os.FileMode(r.Perm))
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

func (c *child) freeze() error {
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | fusemount.SafeFlags)
	if err := fusemount.WhenIdle(func() error { return unix.Mount("", c.dir, "", flags, "") }); err != nil {
		return fmt.Errorf("make %s read-only: %w", c.dir, err)
	}
	return nil
}

// start runs r.Cmd and answers before its end can be reported.
func (c *child) start(r request) {
	p, err := prepare(r.Cmd)
	if err != nil {
		answer := reply{ID: r.ID}
		answer.setError(err)
		c.answer(answer, -1)
		return
	}
	done := make(chan struct{})
	c.forks <- func() {
		defer close(done)
		c.mu.Lock()
		defer c.mu.Unlock()
		pid, err := p.start(c.plain)
		p.close() // before the answer: an open file would keep a mount busy
		if err == nil {
			c.procs[pid] = r.ID
		}
		answer := reply{ID: r.ID}
		answer.setError(err)
		c.answer(answer, -1)
	}
	<-done
}

// reap collects every process that ended, started or adopted. It reports whether
// there is no other child left.
func (c *child) reap() (none bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return errors.Is(err, unix.ECHILD)
		}
		if id, ok := c.procs[pid]; ok {
			delete(c.procs, pid)
			c.answer(reply{ID: id, Exited: true, Status: uint32(status)}, -1)
		}
	}
}

func (c *child) signal(id uint64, sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid, running := range c.procs {
		if running == id {
			return unix.Kill(pid, sig)
		}
	}
	return unix.ESRCH
}

// killAll kills whatever else is in the pid namespace until nothing is. Killing
// is repeated, since a process may fork while the signals go round.
func (c *child) killAll(limit time.Duration) error {
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
