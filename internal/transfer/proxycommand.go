package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/sshconfig"
	terminal "github.com/sealbatch/sealbatch/internal/text"
)

// resolveCommand makes the ProxyCommand ready for the shell.
func (t *target) resolveCommand(q sshconfig.Query, v sshconfig.Values) error {
	command := v.Get("proxycommand")
	if command == "" || strings.EqualFold(command, "none") || len(t.jumps) > 0 {
		return nil
	}
	if v.Get("proxyusefdpass") == "yes" {
		return fmt.Errorf("%w: ProxyUseFdpass is set for %s, which is not supported; use ProxyJump, or a ProxyCommand without it",
			sshconfig.ErrConfig, t.alias)
	}
	for _, err := range []error{sshconfig.CheckHost(t.alias), sshconfig.CheckHost(t.host), sshconfig.CheckUser(t.user),
		sshconfig.CheckHost(cmp.Or(t.hostKeyAlias, t.alias))} {
		if err != nil {
			return fmt.Errorf("%w, so not a name for the ProxyCommand of %s", err, t.alias)
		}
	}
	var err error
	t.proxyCommand, err = sshconfig.Command(q, v)
	return err
}

// commandTimeout is defaultTimeout where a ProxyCommand may ask somebody for a passphrase.
const commandTimeout = 2 * time.Minute

// patience is how long connecting and logging in may take, if nobody says otherwise.
func (t *target) patience() time.Duration {
	if t.proxyCommand != "" {
		return max(t.connectTimeout, commandTimeout)
	}
	return max(t.connectTimeout, defaultTimeout)
}

// maxComplaint bounds what is kept of what a ProxyCommand says, in bytes.
const maxComplaint = 2 << 10

// piped is a connection by the standard input and output of a command: the user's own doing, as with ssh.
type piped struct {
	io.Reader
	io.WriteCloser
	cmd   *exec.Cmd
	words *complaint
	once  sync.Once
	ended chan struct{}
}

// dialCommand starts the ProxyCommand, by the user's shell as ssh does. It ends with the connection; a Ctrl-C,
// which a terminal sends to it, too, is left to sealbatch, which still has to clean up.
func dialCommand(t *target) (*piped, error) {
	cmd := exec.Command(sshconfig.Shell(), "-c", "trap '' INT; exec "+t.proxyCommand)
	words := &complaint{}
	cmd.Stderr, cmd.WaitDelay = words, time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &piped{Reader: out, WriteCloser: in, cmd: cmd, words: words, ended: make(chan struct{})}, nil
}

// Close ends the command: by the end of its input, else, as ssh does, by a hangup.
func (p *piped) Close() error {
	p.once.Do(func() {
		_ = p.WriteCloser.Close()
		hangup := time.AfterFunc(endTime/10, func() { _ = p.cmd.Process.Signal(syscall.SIGHUP) })
		kill := time.AfterFunc(endTime, func() { _ = p.cmd.Process.Kill() })
		go func() {
			_ = p.cmd.Wait() // how it ends says nothing more
			hangup.Stop()
			kill.Stop()
			close(p.ended)
		}()
	})
	return nil
}

// endTime is how long a command may take to end.
const endTime = time.Second

// explain adds what the command said to what went wrong because of it, and ends it.
func (p *piped) explain(err error) error {
	_ = p.Close()
	<-p.ended // within seconds: it is killed, and its pipes are closed
	if said := p.words.String(); said != "" {
		return fmt.Errorf("%w; the ProxyCommand says: %s", err, said)
	}
	return fmt.Errorf("%w; the connection goes through the ProxyCommand of ssh_config", err)
}

// LocalAddr implements net.Conn.
func (p *piped) LocalAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// RemoteAddr implements net.Conn.
func (p *piped) RemoteAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// SetDeadline implements net.Conn; the SSH library sets none.
func (p *piped) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn.
func (p *piped) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn.
func (p *piped) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// complaint keeps the beginning of what a command says.
type complaint struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (c *complaint) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(b[:min(len(b), maxComplaint-c.buf.Len())])
	return len(b), nil
}

// String returns it on one line, with nothing that could steer a terminal.
func (c *complaint) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return terminal.Printable(strings.Join(strings.Fields(c.buf.String()), " "))
}

// dial connects to t: through the host before it, by its ProxyCommand, or directly. ConnectTimeout is for this alone:
// logging in may take longer.
func (t *target) dial(ctx context.Context, before *ssh.Client) (net.Conn, error) {
	if t.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t.connectTimeout, errConnectTimeout)
		defer cancel()
	}
	if before != nil {
		return before.DialContext(ctx, "tcp", t.address())
	}
	if t.proxyCommand != "" {
		return dialCommand(t)
	}
	network := map[string]string{"inet": "tcp4", "inet6": "tcp6"}[t.family]
	if network == "" {
		network = "tcp"
	}
	var d net.Dialer
	if t.bindAddress != "" && t.bindAddress != "*" {
		local, err := net.DefaultResolver.LookupNetIP(ctx, strings.Replace(network, "tcp", "ip", 1), t.bindAddress)
		if err != nil {
			return nil, fmt.Errorf("BindAddress: %w", err)
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local[0], 0))
	}
	conn, err := d.DialContext(ctx, network, t.address())
	if err != nil && context.Cause(ctx) == errConnectTimeout {
		return nil, errConnectTimeout
	}
	return conn, err
}

var errConnectTimeout = errors.New("no answer within ssh_config's ConnectTimeout")
