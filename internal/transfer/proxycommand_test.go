package transfer

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
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
