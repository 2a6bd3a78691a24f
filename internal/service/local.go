package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// ErrNotRunning says that no service listens in a directory.
var ErrNotRunning = errors.New("no service runs on this directory")

// localSocket is the socket's name in a service's directory.
const localSocket = "admin.sock"

// localUID is the key of a local request's context for its peer's user id.
type localUID struct{}

// PeerUID returns the user id of the process that made a request of ServeLocal's.
func PeerUID(ctx context.Context) int { return ctx.Value(localUID{}).(int) }

// ServeLocal answers on a Unix socket in dir, admin.sock, until ctx ends. Only root
// and the service's own user may ask: the socket's mode says so, and the kernel says
// who asks (SO_PEERCRED). The caller knows that no other service runs on dir.
func ServeLocal(ctx context.Context, dir string, h http.Handler) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("local socket: %w", err)
	}
	defer d.Close()
	at := inDir(d)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) { // of a service that was killed
		return fmt.Errorf("local socket: %w", err)
	}
	ln, err := net.Listen("unix", at)
	if err != nil {
		return fmt.Errorf("local socket in %s: %w", dir, err)
	}
	if err := os.Chmod(at, 0o600); err != nil {
		return errors.Join(fmt.Errorf("local socket: %w", err), ln.Close())
	}
	srv := &http.Server{
		Handler: h, ReadTimeout: localTime, WriteTimeout: localTime,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, localUID{}, c.(localConn).uid)
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(localListener{ln}) }()
	select {
	case err := <-ended:
		return fmt.Errorf("local socket: %w", err)
	case <-ctx.Done():
		return srv.Shutdown(context.WithoutCancel(ctx)) // it waits, localTime at most, for what is at work
	}
}

// localTime bounds a local request, both ways.
const localTime = time.Minute

// inDir names the socket in an open directory: the path of a socket has 108 bytes
// at most, that of a directory may be longer.
func inDir(d *os.File) string { return filepath.Join(fsx.FDPath(d), localSocket) }

// localListener takes connections of root and the process's own user.
type localListener struct{ net.Listener }

type localConn struct {
	net.Conn
	uid int
}

// Accept implements net.Listener.
func (l localListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return localConn{c, uid}, nil
		}
		_ = c.Close()
	}
}

func peerUID(c net.Conn) (int, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, sockErr); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// LocalClient returns a client for the service that runs on dir, for URLs of any
// host. Its errors are ErrNotRunning if none does.
func LocalClient(dir string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		c, err := new(net.Dialer).DialContext(ctx, "unix", inDir(d))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			err = fmt.Errorf("%w: %s", ErrNotRunning, dir)
		}
		return c, err
	}
	return &http.Client{Timeout: localTime, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}
