package sandbox

import (
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
		err = mkdir(r.Path, os.FileMode(r.Perm))
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
		err = c.freeze()
	case opStart:
		c.start(r)
		return
	case opSignal:
		err = c.signal(r.Proc, unix.Signal(r.Signal))
	case opKillAll:
		err = c.killAll(r.Limit)
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

// init readies the child.
func (c *child) init(r request) error {
	c.dir, c.plain, c.helper = r.Path, r.Mode != Namespace, r.Helper
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := harden.NoCoreDumps(); err != nil {
		return err
	}
	if c.plain {
		return becomeSubreaper()
	}
	return c.makePrivate(r.Bytes)
}

// freeze makes the private directory read-only.
func (c *child) freeze() error {
	if c.plain {
		return c.takeRights()
	}
	return c.remountReadOnly()
}

// killAll kills every other process of the Space, and returns when they are gone.
func (c *child) killAll(limit time.Duration) error {
	if c.plain {
		return c.killDescendants(limit)
	}
	return c.killNamespace(limit)
}

func mkdir(path string, perm os.FileMode) error {
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
