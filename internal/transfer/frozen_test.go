package transfer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// freezing is an SSH server that freezes at a point, and does not even close a connection then.
type freezing struct {
	at      string
	reached chan struct{} // closed there, once
	once    sync.Once
	l       net.Listener
	key     ssh.Signer
}

// The points: before its first word, at the login, when a session is opened, when something is to run in it, when
// that is to begin, and when SFTP's first request after the beginning comes.
var points = []string{"greeting", "login", "session", "command", "answer", "subsystem", "version", "request"}

func newFreezing(t *testing.T, at string) *freezing {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &freezing{at: at, reached: make(chan struct{})}
	if f.key, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	if f.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go f.serve(t.Context())
	t.Cleanup(func() { _ = f.l.Close() })
	return f
}

// stop freezes if that is the point.
func (f *freezing) stop(ctx context.Context, point string) {
	if point == f.at {
		f.once.Do(func() { close(f.reached) })
		<-ctx.Done()
	}
}

func (f *freezing) serve(ctx context.Context) {
	conn, err := f.l.Accept()
	if err != nil {
		return
	}
	f.stop(ctx, "greeting")
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		f.stop(ctx, "login")
		return nil, nil
	}}
	config.AddHostKey(f.key)
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests) // keepalives are answered whatever happens
	for asked := range channels {
		f.stop(ctx, "session")
		channel, requests, err := asked.Accept()
		if err != nil {
			return
		}
		go f.session(ctx, channel, requests)
	}
}

func (f *freezing) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		if r.Type == "exec" {
			f.stop(ctx, "command")
			_ = r.Reply(true, nil)
			f.stop(ctx, "answer")
			continue
		}
		f.stop(ctx, "subsystem")
		_ = r.Reply(true, nil)
		f.stop(ctx, "version")
		server, err := sftp.NewServer(struct {
			io.Reader
			io.WriteCloser
		}{&stopAfter{Reader: channel, n: 9, stop: func() { f.stop(ctx, "request") }}, channel})
		if err != nil {
			return
		}
		go func() { _ = server.Serve() }()
	}
}

// stopAfter stops after n bytes, those of the first request.
type stopAfter struct {
	io.Reader
	n    int
	stop func()
}

func (s *stopAfter) Read(p []byte) (int, error) {
	if s.n <= 0 {
		s.stop()
	}
	n, err := s.Reader.Read(p[:min(len(p), max(s.n, 9))])
	s.n -= n
	return n, err
}

// reach is how to log in.
func (f *freezing) reach(t *testing.T) Options {
	t.Helper()
	port := f.l.Addr().(*net.TCPAddr).Port
	known := fmt.Sprintf("[127.0.0.1]:%d %s", port, ssh.MarshalAuthorizedKey(f.key.PublicKey()))
	return Options{Host: "127.0.0.1", Port: port, User: "u", ConfigFile: "none", Keys: []string{userKey(t)},
		KnownHosts: []string{knownHosts(t, known)}}
}

// use does something at the login node that comes to the point.
func (f *freezing) use(ctx context.Context, o Options) error {
	c, err := Dial(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	if f.at == "command" || f.at == "answer" || f.at == "session" {
		_, _, _, err = c.Run(ctx, []string{"true"}, nil)
		return err
	}
	fsys, err := c.FS()
	if err == nil {
		_, err = fsys.Stat("/")
	}
	return err
}

// TestFrozenLoginNode: wherever a login node freezes, what waits for it ends, by its limit and with its context.
func TestFrozenLoginNode(t *testing.T) {
	t.Parallel()
	for _, at := range points {
		t.Run(at+" limit", func(t *testing.T) {
			t.Parallel()
			f := newFreezing(t, at)
			o := f.reach(t)
			o.Timeout, o.Stall = 2*time.Second, 2*time.Second
			checkSaid(t, ends(t, func() error { return f.use(t.Context(), o) }), ErrConnect)
			<-f.reached
		})
		t.Run(at+" context", func(t *testing.T) {
			t.Parallel()
			f := newFreezing(t, at)
			o := f.reach(t)
			o.Timeout, o.Stall = time.Hour, time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-f.reached; cancel() }()
			err := ends(t, func() error { return f.use(ctx, o) })
			if !errors.Is(err, context.Canceled) && !errors.Is(err, ErrConnect) {
				t.Errorf("%v", err)
			}
		})
	}
}

// ends fails the test if what it does takes too long, and returns its error.
func ends(t *testing.T, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("it hangs")
		return nil
	}
}

// TestStoppedSSHD stops a real sshd, with all that serves a connection: every use ends, Close too.
func TestStoppedSSHD(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(context.Context, *Client, FS) error{
		"command": func(ctx context.Context, c *Client, _ FS) error {
			_, _, _, err := c.Run(ctx, []string{"true"}, nil)
			return err
		},
		"question": func(_ context.Context, _ *Client, fsys FS) error { return second(fsys.Stat("/")) },
		"upload": func(ctx context.Context, _ *Client, fsys FS) error {
			w, _ := whole(t, 3*testSegment)
			return w.Send(ctx, fsys, t.TempDir()+"/d.partial", 0o640)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, []string{"ed25519"})
			o := reach(t, s)
			o.Stall = 2 * time.Second
			c := mustDial(t, o)
			c.timeout = 2 * time.Second
			fsys, err := c.FS()
			if err != nil {
				t.Fatal(err)
			}
			s.signal(t, syscall.SIGSTOP)
			checkSaid(t, ends(t, func() error { return use(t.Context(), c, fsys) }), ErrConnect)
			_ = ends(t, c.Close)
		})
	}
}

// TestFrozenOnTheWay: a jump host that is stopped while the login node is logged in to, and an SSH agent that does
// not answer.
func TestFrozenOnTheWay(t *testing.T) {
	t.Parallel()
	t.Run("jump host", func(t *testing.T) {
		t.Parallel()
		jump := newServer(t, []string{"ed25519"})
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = inner.Close() })
		go func() {
			if conn, err := inner.Accept(); err == nil {
				jump.mu.Lock()
				for _, sshd := range jump.cmds {
					_ = sshd.Process.Signal(syscall.SIGSTOP)
				}
				jump.mu.Unlock()
				_, _ = io.WriteString(conn, "SSH-2.0-late\r\n")
			}
		}()
		o := reach(t, jump)
		o.ProxyJump = fmt.Sprintf("%s@127.0.0.1:%d", o.User, o.Port)
		o.Port = inner.Addr().(*net.TCPAddr).Port
		o.Timeout = 5 * time.Second
		checkSaid(t, ends(t, func() error { _, err := Dial(t.Context(), o); return err }), ErrConnect, "no answer in time")
	})
	t.Run("agent", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, []string{"ed25519"})
		socket := filepath.Join(t.TempDir(), "agent")
		l, err := net.Listen("unix", socket) // nobody accepts
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		o := reach(t, s)
		config := filepath.Join(t.TempDir(), "config")
		writeFile(t, config, "Host *\nIdentityAgent "+socket+"\n")
		o.ConfigFile, o.Timeout = config, 2*time.Second
		checkSaid(t, ends(t, func() error { _, err := Dial(t.Context(), o); return err }), ErrConnect)
		o.Timeout = 0 // there is time to do without it
		_ = ends(t, func() error { mustDial(t, o); return nil })
	})
}
