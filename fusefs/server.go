package fusefs

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
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
	fuse *fuse.Server
	dir  string // where it was mounted directly, if it was
	done chan struct{}
}

// Mount mounts t at the directory dir: directly where the caller may, otherwise
// by fusermount3.
func Mount(dir string, t Tree, opt MountOptions) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("the mount point %s is not a directory", dir)
	}
	fd, err := connect(dir, "sealbatch", true)
	if err != nil {
		return mountByHelper(dir, t, opt, err)
	}
	s, err := Serve(fd, t, opt)
	if err != nil {
		return nil, errors.Join(err, unmount(dir, true))
	}
	s.dir = dir
	if err := settle(dir); err != nil {
		return nil, errors.Join(err, s.Unmount())
	}
	return s, nil
}

// mountByHelper mounts with fusermount3, after direct mounting failed.
func mountByHelper(dir string, t Tree, opt MountOptions, direct error) (*Server, error) {
	s, err := serve(dir, t, opt)
	if err != nil {
		return nil, fmt.Errorf("%w; with fusermount3: %s", direct, strings.TrimSpace(err.Error())) // go-fuse's ends in a newline
	}
	if err := s.fuse.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", dir, err), s.Unmount())
	}
	return s, nil
}

// Serve serves t on fuseFD, a descriptor of /dev/fuse that is mounted already,
// until that mount is gone. It owns fuseFD, also when it fails.
func Serve(fuseFD int, t Tree, opt MountOptions) (*Server, error) {
	s, err := serve(fmt.Sprintf("/dev/fd/%d", fuseFD), t, opt)
	if err != nil {
		return nil, fmt.Errorf("serve FUSE: %w", err)
	}
	return s, nil
}

// serve starts a server; go-fuse takes /dev/fd/N for a connection that exists.
func serve(at string, t Tree, opt MountOptions) (*Server, error) {
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
	srv, err := fuse.NewServer(fs, at, &fuse.MountOptions{
		FsName: "sealbatch", Name: "sealbatch",
		Options:  []string{"ro", "nosuid", "nodev", "default_permissions"},
		MaxWrite: maxRead, MaxReadAhead: maxRead, MaxBackground: 64,
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true, DisableXAttrs: true,
		Logger: log.New(logWriter{opt.Log}, "", 0),
	})
	if err != nil {
		return nil, err
	}
	s := &Server{fuse: srv, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		srv.Serve()
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
	if !s.running() {
		return nil // somebody else unmounted it
	}
	if s.dir != "" {
		if err := unmount(s.dir, false); err != nil {
			return err
		}
	} else if err := s.fuse.Unmount(); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return s.Wait()
}

func (s *Server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *Server) ended() <-chan struct{} { return s.done }
func (s *Server) err() error             { return nil }
func (s *Server) settled()               {}
func (s *Server) kill()                  {} // it ends with its mount

// logWriter takes go-fuse's rare complaints into the log.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("FUSE server", "message", string(p))
	return len(p), nil
}
