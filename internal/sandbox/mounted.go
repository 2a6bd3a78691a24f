package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/fusefs"
)

// mounted is a volume in a Space and the server behind it.
type mounted struct {
	rel    string
	server server
	ending bool // under Space.mu: unmounting was asked for
}

// server is what answers a FUSE connection.
type server interface {
	// ended is closed when the server has come to its end, after which err says
	// how that went.
	ended() <-chan struct{}
	err() error
	// settled tells it that the mount answers.
	settled()
	// kill ends a server that does not end by itself. It may be impossible.
	kill()
}

// mount mounts FUSE at rel and has the connection served by what serve starts.
// serve owns the descriptor.
func (s *Space) mount(rel string, r request, serve func(*os.File) (server, error)) error {
	fuse, err := s.connect(rel, r)
	if err != nil {
		return err
	}
	if fuse == nil {
		return errors.New("the namespace child passed no descriptor")
	}
	srv, err := serve(fuse)
	if err != nil {
		return errors.Join(err, s.disconnect(rel, true))
	}
	m := &mounted{rel: rel, server: srv}
	s.mu.Lock()
	s.mounts = append(s.mounts, m)
	s.mu.Unlock()
	if _, err := s.ask(rel, request{Op: opSettle}); err != nil {
		srv.kill()
		return errors.Join(fmt.Errorf("the mount at %s does not answer: %w", rel, err), s.unmount(m, true))
	}
	srv.settled()
	go s.watch(m)
	return nil
}

// watch reports a server that ends although nobody unmounted it.
func (s *Space) watch(m *mounted) {
	<-m.server.ended()
	s.mu.Lock()
	unexpected := !m.ending && !s.closed
	s.mu.Unlock()
	if unexpected && s.client.alive() {
		s.fail(fmt.Errorf("the server of the mount at %s died: %w", m.rel, orExit(m.server.err())))
	}
}

// Unmount unmounts rel and waits until its server has ended. It fails while
// something inside uses the mount.
func (s *Space) Unmount(rel string) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.mounts, func(m *mounted) bool { return m.rel == rel })
	if i < 0 {
		s.mu.Unlock()
		return fmt.Errorf("nothing is mounted at %s", rel)
	}
	m := s.mounts[i]
	s.mu.Unlock()
	return s.unmount(m, false)
}

func (s *Space) unmount(m *mounted, detach bool) error {
	s.setEnding(m, true)
	if err := s.disconnect(m.rel, detach); err != nil {
		s.setEnding(m, false)
		return err
	}
	s.mu.Lock()
	s.mounts = slices.DeleteFunc(s.mounts, func(other *mounted) bool { return other == m })
	s.mu.Unlock()
	return m.waitEnd(s.limit)
}

func (s *Space) setEnding(m *mounted, ending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.ending = ending
}

// waitEnd waits for the server of a mount that is gone.
func (m *mounted) waitEnd(limit time.Duration) error {
	select {
	case <-m.server.ended():
	case <-time.After(limit):
		m.server.kill()
		select {
		case <-m.server.ended():
		case <-time.After(limit):
		}
		return fmt.Errorf("the server of the mount at %s did not end within %v", m.rel, limit)
	}
	if err := m.server.err(); err != nil {
		return fmt.Errorf("the server of the mount at %s: %w", m.rel, err)
	}
	return nil
}

// MountTree mounts a sealed volume read-only at rel. Its files belong to the
// caller's uid and gid.
func (s *Space) MountTree(rel string, t fusefs.Tree) error {
	return s.mount(rel, request{Type: "sealbatch", RO: true}, func(fuse *os.File) (server, error) {
		return s.serveTree(fuse, rel, t)
	})
}

// serveTree owns the descriptor. at is how errors call the mount.
func (s *Space) serveTree(fuse *os.File, at string, t fusefs.Tree) (server, error) {
	defer fuse.Close()
	fd, err := unix.FcntlInt(fuse.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	srv, err := fusefs.Serve(fd, t, fusefs.MountOptions{Log: s.opt.Log, ReadError: func(_ uint32, err error) {
		s.fail(fmt.Errorf("%w: at %s: %w", ErrRead, at, err))
	}})
	if err != nil {
		return nil, err
	}
	return treeServer{srv}, nil
}

// treeServer is the server of a sealed volume, in this process.
type treeServer struct{ *fusefs.Server }

func (t treeServer) ended() <-chan struct{} { return t.Done() }
func (treeServer) err() error               { return nil }
func (treeServer) settled()                 {}
func (treeServer) kill()                    {} // it ends with its mount
