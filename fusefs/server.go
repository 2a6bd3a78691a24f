package fusefs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fusemount"
)

// MountOptions describe a read-only mount.
type MountOptions struct {
	Log *slog.Logger // nil discards
	// ReadError, if set, hears of the first failed read of each file, by the
	// number of its node. The log never names files.
	ReadError func(node uint32, err error)

	oldKernel bool // tests: as if the kernel needed answers to OPEN and OPENDIR
}

// Server serves one mounted Tree.
type Server struct {
	unmount func(path string, detach bool) error // undoes what Mount did; nil if it did nothing
	device  uint64                               // what Mount mounted
	done    chan struct{}
}

// Mount mounts t at the directory that dir leads to: directly where the caller may, otherwise by fusermount3. That
// directory must be empty; its errors are usage errors with a hint.
func Mount(dir string, t Tree, opt MountOptions) (*Server, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	dir, beneath, err := claimMountPoint(dir, opt.Log)
	if err != nil {
		return nil, err
	}
	undo := fusemount.Unmount
	fd, err := fusemount.Connect(dir, subtype, true)
	if err != nil {
		direct := err
		if fd, undo, err = connectByHelper(dir); err != nil {
			beneath.Close()
			return nil, fmt.Errorf("%w; with fusermount3: %w", direct, err)
		}
	}
	s, err := Serve(fd, t, opt)
	if err != nil {
		beneath.Close()
		return nil, errors.Join(err, undo(dir, true))
	}
	s.unmount = undo
	go func() {
		<-s.done
		beneath.Close()
	}()
	var root unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &root), fusemount.Settle(dir)); err != nil {
		return nil, errors.Join(err, undo(dir, true))
	}
	s.device = root.Dev
	return s, nil
}

// connectByHelper mounts FUSE at dir where only fusermount3 may, and returns the
// connection and how to unmount it.
func connectByHelper(dir string) (fd int, undo func(path string, detach bool) error, err error) {
	helper, err := fusemount.FindHelper()
	if err != nil {
		return -1, nil, err
	}
	file, err := helper.Mount(dir, subtype, true)
	if err != nil {
		return -1, nil, err
	}
	defer file.Close()
	fd, err = unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, nil, errors.Join(err, helper.Unmount(dir, true))
	}
	return fd, helper.Unmount, nil
}

// Serve serves t on fuseFD, a descriptor of /dev/fuse that is mounted already,
// until that mount is gone. It owns fuseFD, also when it fails.
func Serve(fuseFD int, t Tree, opt MountOptions) (*Server, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	owner := fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	fs := newTreeFS(t, owner, func(node uint32, err error) {
		opt.Log.Error("reading a file of a sealed volume failed", "entry", node, "error", err)
		if opt.ReadError != nil {
			opt.ReadError(node, err)
		}
	})
	fs.oldKernel = opt.oldKernel
	c, err := newConn(fuseFD, fs, opt.Log)
	if err != nil {
		return nil, fmt.Errorf("serve FUSE: %w", err)
	}
	s := &Server{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		c.serve()
	}()
	return s, nil
}

// Wait waits for the end of the mount.
func (s *Server) Wait() error {
	<-s.done
	return nil
}

// Unmount unmounts what Mount mounted and waits for the server. It fails while
// the mount is in use.
func (s *Server) Unmount() error {
	if err := s.undo(false); err != nil {
		return err
	}
	return s.Wait()
}

// Detach takes away what Mount mounted even while it is in use, and does not wait: those who use it are served until
// they let go.
func (s *Server) Detach() error { return s.undo(true) }

func (s *Server) undo(detach bool) error {
	if !s.running() {
		return nil // somebody else unmounted it
	}
	if s.unmount == nil {
		return errors.New("whoever mounted it has to unmount it")
	}
	path, covered := fusemount.Where(s.device)
	if path == "" {
		return nil // detached by somebody else, and still in use
	}
	if covered {
		return fmt.Errorf("something else is mounted over %s", path)
	}
	return s.unmount(path, detach)
}

// Done returns a channel that is closed when the mount is gone and nothing is
// served any more.
func (s *Server) Done() <-chan struct{} { return s.done }

func (s *Server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// logWriter takes go-fuse's rare complaints into the log.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("FUSE server", "message", string(p))
	return len(p), nil
}
