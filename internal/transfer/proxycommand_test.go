package transfer

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A ProxyCommand is run as ssh runs it, and what it says is in the error; its host key is checked as any.
func TestProxyCommand(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	config := filepath.Join(t.TempDir(), "config")
	write := func(command string) Options {
		writeFile(t, config, fmt.Sprintf("Host inner\n  HostKeyAlias site\n  User %s\n  IdentityFile %s\n  IdentityAgent none\n"+
			"  ProxyCommand %s\n", localUser(t), key, command))
		known := knownHosts(t, "site "+readString(t, s.hostKey("ed25519")+".pub"))
		return Options{Host: "inner", ConfigFile: config, KnownHosts: []string{known}}
	}
	command := "/usr/sbin/sshd -i -f " + filepath.Join(s.dir, "sshd_config")
	c := mustDial(t, write("sh -c 'test %h%n = innerinner && exec "+command+"'"))
	if out, _, _, err := c.Run(t.Context(), []string{"echo", "here"}, nil); err != nil || string(out) != "here\n" {
		t.Errorf("%q, %v", out, err)
	}
	if s.conns.Load() != 0 {
		t.Error("the server was reached beside the command")
	}
	o := write(command)
	o.KnownHosts = []string{knownHosts(t)}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyUnknown) {
		t.Errorf("unknown host key: %v", err)
	}
	if _, err := Dial(t.Context(), write("echo no way >&2; exit 3")); !errors.Is(err, ErrConnect) ||
		!strings.Contains(err.Error(), "the ProxyCommand says: no way") {
		t.Errorf("a command that fails: %v", err)
	}
}

// A ProxyCommand may ask somebody, which takes longer than connecting; ConnectTimeout only ever adds to that.
func TestPatience(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		target target
		want   time.Duration
	}{
		{target{}, defaultTimeout},
		{target{connectTimeout: time.Second}, defaultTimeout},
		{target{connectTimeout: time.Hour}, time.Hour},
		{target{proxyCommand: "nc"}, commandTimeout},
		{target{proxyCommand: "nc", connectTimeout: time.Second}, commandTimeout},
		{target{proxyCommand: "nc", connectTimeout: time.Hour}, time.Hour},
	} {
		if got := c.target.patience(); got != c.want {
			t.Errorf("%q, ConnectTimeout %v: %v, want %v", c.target.proxyCommand, c.target.connectTimeout, got, c.want)
		}
	}
	// Who answers, but not at once, is waited for although connecting had to be quicker.
	s := newServer(t, []string{"ed25519"})
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	o := s.login(t, knownHosts(t, s.line(t, "ed25519")), "ConnectTimeout 1",
		"ProxyCommand sh -c 'sleep 1.2; exec /usr/sbin/sshd -i -f "+filepath.Join(s.dir, "sshd_config")+"'")
	o.Keys = []string{key}
	mustDial(t, o)
}

// AddressFamily, BindAddress and ConnectTimeout are kept to.
func TestDialSettings(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	conn, err := (&target{host: "localhost", port: port, family: "inet", bindAddress: "127.0.0.3"}).dial(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.3" {
		t.Errorf("from %s", got)
	}
	if _, err := (&target{host: "127.0.0.1", port: port, family: "inet6"}).dial(t.Context(), nil); err == nil {
		t.Error("IPv4 although it was to be IPv6")
	}
	if _, err := (&target{host: "127.0.0.1", port: port, connectTimeout: 1}).dial(t.Context(), nil); !errors.Is(err, errConnectTimeout) {
		t.Errorf("a nanosecond was enough: %v", err)
	}
}
