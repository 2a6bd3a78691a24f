package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// Options say how to reach a login node. Only Host is needed.
type Options struct {
	Host       string   // host name, address or ssh_config alias
	User       string   // "" means ssh_config's, or the local user's name
	Port       int      // 0 means ssh_config's, or 22
	Keys       []string // private key files to try before ssh_config's
	KnownHosts []string // known_hosts files instead of ssh_config's
	ConfigFile string   // ssh_config; "" means ~/.ssh/config and the system's, "none" means neither
	ProxyJump  string   // as ssh -J; "" means ssh_config's, "none" means none

	// Prompt asks the person at the terminal; nil if there is nobody.
	Prompt func(context.Context, Prompt) (string, error)
	// Timeout is for each host's connection up to authentication; 0 means 30 seconds, two minutes with a
	// ProxyCommand, or ssh_config's ConnectTimeout if that is longer. Time that a person takes to answer a
	// Prompt does not count.
	Timeout time.Duration
	// Stall is how long the SFTP server may leave requests unanswered, with nothing moving, until the
	// connection is taken for broken; 0 means two minutes.
	Stall time.Duration
	// Connections is how many a large upload may use at once where the login node is far away; 0 means
	// 4; at most MaxConnections. Where somebody had to answer a Prompt there is one in any case.
	Connections int
}

const (
	defaultTimeout   = 30 * time.Second
	defaultKeepAlive = 20 * time.Second // where ssh_config has no ServerAliveInterval
	defaultMisses    = 3
	maxHops          = 8
)

// Client is a connection to a login node. It runs commands and serves files (Client.FS).
type Client struct {
	conn  *ssh.Client
	hops  []*ssh.Client // in the order in which they were dialled
	stop  chan struct{}
	close sync.Once
	name  string // as ssh takes it
	// How long sshd may take to open a session or to begin what runs in it (Options.Timeout), and then what
	// was begun to say something (Options.Stall).
	timeout, stall time.Duration
	life           context.Context // that of Dial
	again          Options         // to dial once more, with nobody to ask
	asked          bool            // somebody was asked something
	prompt         func(context.Context, Prompt) (string, error)
	second         *besides

	mu   sync.Mutex
	sftp *remote
}

// CleanUpTime is how long a connection outlives the context that it was made with: cleaning up after a Ctrl-C needs
// it, but must not hang on it.
const CleanUpTime = 10 * time.Second

// Dial connects, through jump hosts if there are any, and logs in. The connection ends CleanUpTime after ctx. Errors
// are *Error of the kinds ErrConfig, ErrConnect, ErrHostKeyUnknown, ErrHostKeyChanged and ErrAuth, or ctx's.
func Dial(ctx context.Context, o Options) (*Client, error) { return connect(ctx, ctx, o) }

// connect is Dial for a connection that ends after another context, life.
func connect(ctx, life context.Context, o Options) (*Client, error) {
	route, err := o.route(ctx)
	if err != nil {
		return nil, err
	}
	last := route[len(route)-1]
	c := &Client{stop: make(chan struct{}), name: last.alias, life: life, again: o, prompt: o.Prompt,
		second: &besides{turn: make(chan struct{}, 1)}, timeout: cmp.Or(max(o.Timeout, 0), defaultTimeout),
		stall: cmp.Or(max(o.Stall, 0), defaultStall)}
	c.again.Prompt = nil
	if ask := o.Prompt; ask != nil {
		o.Prompt = func(ctx context.Context, p Prompt) (string, error) {
			c.asked = true
			return ask(ctx, p)
		}
	}
	for _, t := range route {
		next, err := o.hop(ctx, c.conn, t)
		if err != nil {
			_ = c.Close()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
		c.conn = next
		c.hops = append(c.hops, next)
	}
	go c.outlive(life)
	go c.keepAlive(cmp.Or(last.aliveInterval, defaultKeepAlive), last.aliveMisses)
	return c, nil
}

// hop connects to t, through the host before it if there is one, and logs in.
func (o *Options) hop(ctx context.Context, before *ssh.Client, t *target) (*ssh.Client, error) {
	keys, err := newHostKeys(t)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(max(o.Timeout, 0), t.patience())
	deadline := newDeadline(ctx, limit)
	defer deadline.stop()
	conn, err := t.dial(deadline.ctx, before)
	if err != nil {
		return nil, fail(Error{Kind: ErrConnect, What: "cannot connect to " + t.address(),
			Err:  fault.Network(deadline.explain(err), t.address(), "[supercomputer] address"),
			Next: "is the address right, and is this machine online? ssh " + t.alias + " should work"})
	}
	defer context.AfterFunc(deadline.ctx, func() { _ = conn.Close() })()
	creds := &credentials{ctx: deadline.ctx, target: t}
	defer creds.close()
	if o.Prompt != nil {
		creds.prompt = func(ctx context.Context, p Prompt) (string, error) {
			deadline.pause() // a person may take as long as the server lets them
			defer deadline.resume(limit)
			return o.Prompt(ctx, p)
		}
	}
	// What waits for an agent, or for a jump host, does not see that conn is closed.
	client, err := within(deadline.ctx, forever, func() (*ssh.Client, error) {
		c, channels, requests, err := ssh.NewClientConn(conn, t.address(), &ssh.ClientConfig{
			User: t.user, Auth: creds.methods(), HostKeyCallback: keys.check, HostKeyAlgorithms: keys.algorithms(),
			ClientVersion: "SSH-2.0-sealbatch",
		})
		if err != nil {
			return nil, err
		}
		return ssh.NewClient(c, channels, requests), nil
	}, func(c *ssh.Client) { _ = c.Close() })
	if err == nil {
		return client, nil
	}
	go func() { _ = conn.Close() }()
	p, byCommand := conn.(*piped)
	if cause := context.Cause(deadline.ctx); cause != nil {
		if byCommand {
			cause = p.explain(cause)
		}
		return nil, fail(Error{Kind: ErrConnect, What: "SSH with " + t.address() + " failed", Err: cause,
			Next: "it, or your SSH agent, may be overloaded or frozen: run the same command again when `ssh " + t.alias + "` works"})
	}
	if byCommand && !keys.passed {
		err = p.explain(err)
	}
	return nil, creds.explain(err, keys.passed)
}

// forever is no limit of its own.
const forever = time.Duration(math.MaxInt64)

// explain turns an error of the handshake into one of this package's. Once the host's key is
// accepted, what fails is the login, unless the connection broke.
func (c *credentials) explain(err error, hostKeyPassed bool) error {
	var own *fault.Error
	var network net.Error
	switch {
	case errors.As(err, &own):
		return own
	case !hostKeyPassed || errors.Is(err, io.EOF) || errors.Is(err, errTimeout) || errors.As(err, &network):
		return fail(Error{Kind: ErrConnect, What: "SSH with " + c.target.address() + " failed", Err: err})
	}
	what := fmt.Sprintf("%s refused to log in %s", c.target.host, c.target.user)
	if len(c.tried) > 0 {
		what += "; offered: " + strings.Join(c.tried, ", ")
	} else {
		what += "; there was no key to offer"
	}
	if len(c.passed) > 0 {
		what += "; passed over: " + strings.Join(c.passed, ", ")
	}
	return fail(Error{Kind: ErrAuth, What: what, Err: err,
		Next: "check [supercomputer] username and ssh-key, and that the site knows the public key; ssh " + c.target.alias + " should work"})
}

// deadline is a timeout that does not count while a person is asked something.
type deadline struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

var errTimeout = errors.New("no answer in time")

func newDeadline(ctx context.Context, d time.Duration) *deadline {
	inner, cancel := context.WithCancelCause(ctx)
	return &deadline{ctx: inner, cancel: cancel, timer: time.AfterFunc(d, func() { cancel(errTimeout) })}
}

func (d *deadline) pause() { d.timer.Stop() }

func (d *deadline) resume(limit time.Duration) { d.timer.Reset(limit) }

func (d *deadline) stop() {
	d.timer.Stop()
	d.cancel(nil)
}

// explain prefers the timeout to what it caused.
func (d *deadline) explain(err error) error {
	if cause := context.Cause(d.ctx); cause != nil {
		return cause
	}
	return err
}

// keepAlive asks the server for a sign of life, and closes the connection if there is none.
func (c *Client) keepAlive(interval time.Duration, misses int) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	answers := make(chan error, misses+1)
	for waiting := 0; ; {
		select {
		case <-c.stop:
			return
		case err := <-answers:
			if waiting--; err != nil {
				return
			}
		case <-ticker.C:
			if waiting++; waiting > misses {
				_ = c.Close()
				return
			}
			go func() {
				_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
				answers <- err
			}()
		}
	}
}

// outlive ends the connection some time after ctx.
func (c *Client) outlive(ctx context.Context) {
	select {
	case <-c.stop:
		return
	case <-ctx.Done():
	}
	select {
	case <-c.stop:
	case <-time.After(CleanUpTime):
		_ = c.Close()
	}
}

// Close ends the connection and those to the jump hosts. The outermost goes first: where it is frozen, nothing
// can be sent over the others any more, not even that they end.
func (c *Client) Close() error {
	c.close.Do(func() {
		close(c.stop)
		c.second.shut()
		for _, hop := range c.hops {
			_ = hop.Close()
		}
	})
	return nil
}
