package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/fusefs"
	"github.com/sealbatch/sealbatch/internal/fusemount"
	"github.com/sealbatch/sealbatch/volume"
)

// Runtime mounts are volumes that the container runtime mounts for each of its
// commands, in mode Runtime. With --fusemount "host-daemon:PROGRAM MOUNTPOINT" it
// opens and mounts /dev/fuse by itself and starts the program, which should serve,
// with the descriptor as /dev/fd/N in the mount point's place (apptainer(1),
// SingularityCE's likewise). The program is this executable (PassMain): it passes
// the descriptor on to the Space, so that the keys stay where they are.

// PassArg is the first argument with which a container runtime starts this
// executable; the program then has to call PassMain before anything else.
const PassArg = "fuse-pass"

// passLimit is how long either side of the socket waits for the other.
const passLimit = 20 * time.Second

// socketName is the socket for descriptors, in a Space's directory.
const socketName = "fuse"

// runtimeMount is such a volume. Each command of the runtime gets a connection, and a
// server, of its own.
type runtimeMount struct {
	at    string // inside the container
	serve func(*os.File) (server, error)
}

// AddRuntimeTree has the container runtime mount a sealed volume at the container's
// path at.
func (s *Space) AddRuntimeTree(at string, t fusefs.Tree) error {
	return s.addRuntimeMount(at, func(fuse *os.File) (server, error) { return s.serveTree(fuse, at, t) })
}

// AddRuntimeGocryptfs has the container runtime mount a cipher directory at the
// container's path at. The Space uses cipher and key until it is closed.
func (s *Space) AddRuntimeGocryptfs(at string, cipher *os.Root, key volume.Key) error {
	if err := prepareCipherDir(cipher); err != nil {
		return err
	}
	return s.addRuntimeMount(at, func(fuse *os.File) (server, error) {
		defer fuse.Close()
		return s.startGocryptfs(fuse, cipher, key)
	})
}

// maxRuntimeMounts is what the one byte that names them allows for.
const maxRuntimeMounts = 256

func (s *Space) addRuntimeMount(at string, serve func(*os.File) (server, error)) error {
	if s.listener != nil {
		return errors.New("the runtime has been told already what to mount")
	}
	if len(s.runtimeMounts) == maxRuntimeMounts || strings.ContainsAny(at, ", \t\n\"'\\") {
		return fmt.Errorf("%.80q: not more than %d mounts by the runtime, and none with a space, comma or quote in its name",
			at, maxRuntimeMounts)
	}
	s.runtimeMounts = append(s.runtimeMounts, runtimeMount{at, serve})
	return nil
}

// FuseSpecs returns the values of --fusemount for what was added. That is served
// from then on, and no more can be added. program is this executable's name on
// this machine.
func (s *Space) FuseSpecs(program string) ([]string, error) {
	if strings.ContainsAny(program+s.opt.Dir, ", \t\n\"'\\") {
		return nil, fmt.Errorf("the runtime cannot be given %q: it has a space, comma or quote in its name", program)
	}
	if len(s.runtimeMounts) > 0 && s.listener == nil {
		if err := s.listen(); err != nil {
			return nil, err
		}
	}
	specs := make([]string, len(s.runtimeMounts))
	for i, m := range s.runtimeMounts {
		specs[i] = fmt.Sprintf("host-daemon:%s %s %s %d %s", program, PassArg, s.Path(socketName), i, m.at)
	}
	return specs, nil
}

// listen waits for descriptors. The socket lies in a directory that nobody else
// can enter, and peers of another user are refused besides.
func (s *Space) listen() error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Path(socketName), Net: "unix"})
	if err != nil {
		return fmt.Errorf("socket for the runtime's mounts: %w", err)
	}
	s.listener = l
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				if err := s.serveRuntimeMount(c); err != nil {
					s.fail(fmt.Errorf("a mount by the container runtime: %w", err))
				}
			}()
		}
	}()
	return nil
}

// serveRuntimeMount takes a FUSE connection over, has it served and answers that it is.
func (s *Space) serveRuntimeMount(c *net.UnixConn) error {
	if err := c.SetDeadline(time.Now().Add(passLimit)); err != nil {
		return err
	}
	if err := ownPeer(c); err != nil {
		return err
	}
	number, fuse, err := fusemount.ReceiveFile(c)
	if err != nil {
		return err
	}
	if !isFuse(fuse) || int(number) >= len(s.runtimeMounts) {
		fuse.Close()
		return errors.New("not a FUSE connection for one of the volumes")
	}
	m := s.runtimeMounts[number]
	srv, err := m.serve(fuse)
	if err != nil {
		return fmt.Errorf("%s: %w", m.at, err)
	}
	srv.settled()
	s.mu.Lock()
	s.served = append(s.served, srv)
	s.mu.Unlock()
	go s.watchRuntimeMount(m, srv)
	_, err = c.Write([]byte{0})
	return err
}

// watchRuntimeMount reports a server that fails. It ends well when its container
// does.
func (s *Space) watchRuntimeMount(m runtimeMount, srv server) {
	<-srv.ended()
	s.mu.Lock()
	expected := s.closed
	s.mu.Unlock()
	if err := srv.err(); err != nil && !expected {
		s.fail(fmt.Errorf("the server of the mount at %s died: %w", m.at, err))
	}
}

// isFuse reports whether f is /dev/fuse, by its number (Linux's devices.txt).
func isFuse(f *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(10, 229)
}

// ownPeer fails if another user is at the other end.
func ownPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return err
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("uid %d asks for it", cred.Uid)
	}
	return nil
}

// awaitServed waits until the servers of runtime mounts have ended; their
// containers have.
func (s *Space) awaitServed() error {
	s.mu.Lock()
	served := s.served
	s.served = nil
	s.mu.Unlock()
	for _, srv := range served {
		select {
		case <-srv.ended():
		case <-time.After(s.limit):
			srv.kill()
			return fmt.Errorf("a mount by the container runtime is still served %v after its container ended", s.limit)
		}
	}
	return nil
}

// PassMain passes on a descriptor: its arguments are the socket, the runtime
// mount's number and /dev/fd/N. It returns when the mount is served.
func PassMain(args []string) error {
	if len(args) != 3 {
		return errors.New("socket, number and descriptor are needed")
	}
	number, err := strconv.ParseUint(args[1], 10, 8)
	if err != nil {
		return err
	}
	fd, err := strconv.ParseUint(strings.TrimPrefix(args[2], "/dev/fd/"), 10, 16)
	if err != nil || filepath.Dir(args[2]) != "/dev/fd" {
		return fmt.Errorf("%.40q is not /dev/fd/N", args[2])
	}
	conn, err := net.DialTimeout("unix", args[0], passLimit)
	if err != nil {
		return err
	}
	defer conn.Close()
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a Unix socket")
	}
	if err := c.SetDeadline(time.Now().Add(passLimit)); err != nil {
		return err
	}
	if _, _, err := c.WriteMsgUnix([]byte{byte(number)}, unix.UnixRights(int(fd)), nil); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the supervisor does not serve it: %w", err)
	}
	return nil
}
