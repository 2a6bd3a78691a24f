package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// A known Ed25519 key is found although the server has, and prefers, other types.
func TestHostKeyKnown(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ecdsa", "rsa", "ed25519"})
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	for _, kind := range []string{"ecdsa", "rsa", "ed25519"} {
		o := s.login(t, knownHosts(t, s.line(t, kind)))
		o.Keys = []string{key}
		mustDial(t, o)
	}
}

func TestHostKeyErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ecdsa", "ed25519"})
	other := newServer(t, []string{"ed25519"})
	wrong := s.name() + " " + readString(t, other.hostKey("ed25519")+".pub")
	for name, c := range map[string]struct {
		known string
		kind  error
		want  []string
		next  string
	}{
		"unknown": {knownHosts(t, "example.org "+readString(t, s.hostKey("ed25519")+".pub")), ErrHostKeyUnknown,
			[]string{s.name(), "SHA256:"}, "ssh-keyscan -p"},
		"no file": {"/nonexistent/known_hosts", ErrHostKeyUnknown, []string{"is unknown"}, ">>/nonexistent/known_hosts"},
		"changed": {knownHosts(t, "# comment", wrong), ErrHostKeyChanged,
			[]string{"known_hosts:2", "someone may be in between"}, "ssh-keygen -f"},
		"revoked": {knownHosts(t, "@revoked "+s.line(t, "ed25519"), "@revoked "+s.line(t, "ecdsa")), ErrHostKeyChanged,
			[]string{"revoked"}, "do not log in"},
		"unreadable": {knownHosts(t, "x y z", s.name()+" ssh-ed25519 AAAA"), ErrHostKeyUnknown,
			[]string{"passed over, since it cannot be read: ", "known_hosts:2"}, "ssh-keyscan -p"},
	} {
		_, err := Dial(t.Context(), s.login(t, c.known))
		var own *Error
		if !errors.Is(err, c.kind) || !errors.As(err, &own) || fault.ClassOf(err) != fault.SSH || !strings.Contains(fault.Hint(err), c.next) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v lacks %q", name, err, w)
			}
		}
	}
}

// A host certificate of a known authority counts; one of an unknown authority does not hide the key.
func TestHostCertificate(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	ca := userKey(t)
	keygen(t, "-s", ca, "-I", "host", "-h", "-n", "127.0.0.1", s.hostKey("ed25519")+".pub")
	config := readString(t, filepath.Join(s.dir, "sshd_config"))
	writeFile(t, filepath.Join(s.dir, "sshd_config"), config+"\nHostCertificate "+s.hostKey("ed25519")+"-cert.pub\n")
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	for _, line := range []string{"@cert-authority " + s.name() + " " + readString(t, ca+".pub"), s.line(t, "ed25519")} {
		o := s.login(t, knownHosts(t, line))
		o.Keys = []string{key}
		mustDial(t, o)
	}
	other := userKey(t)
	o := s.login(t, knownHosts(t, "@cert-authority * "+readString(t, other+".pub")))
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrHostKeyChanged) && !errors.Is(err, ErrHostKeyUnknown) {
		t.Errorf("wrong authority: %v", err)
	}
}

func TestAuthRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	known := knownHosts(t, s.line(t, "ed25519"))
	locked := userKey(t, "-N", "secret")
	s.authorize(t, readString(t, locked+".pub"))
	for name, c := range map[string]struct {
		keys []string
		want string
	}{
		"wrong key":      {[]string{userKey(t)}, "offered: "},
		"no key":         {nil, "no key to offer"},
		"locked, nobody": {[]string{locked}, "has a passphrase"},
	} {
		o := s.login(t, known)
		o.Keys = c.keys
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The passphrase is asked for once the server takes the key, and again when it was wrong.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	for _, kind := range []string{"ed25519", "rsa"} {
		key := userKey(t, "-t", kind, "-N", "secret")
		o := s.login(t, knownHosts(t, s.line(t, "ed25519")))
		o.Keys = []string{key}
		asked := 0
		o.Prompt = func(_ context.Context, p Prompt) (string, error) {
			asked++
			if p.Target != key || p.Echo {
				return "", fmt.Errorf("asked for %+v", p)
			}
			return []string{"wrong", "secret"}[min(asked, 2)-1], nil
		}
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) || asked != 0 {
			t.Errorf("%s: key that the server does not know: %v, asked %d times", kind, err, asked)
		}
		s.authorize(t, readString(t, key+".pub"))
		mustDial(t, o)
		if asked != 2 {
			t.Errorf("%s: asked %d times", kind, asked)
		}
	}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"}, "MaxAuthTries 2")
	socket := filepath.Join(t.TempDir(), "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has announced its socket
		t.Fatal(err)
	}
	var last string
	for range 4 {
		last = userKey(t)
		add := exec.Command("ssh-add", "-q", last)
		add.Env = []string{"SSH_AUTH_SOCK=" + socket}
		if msg, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, msg)
		}
	}
	s.authorize(t, readString(t, last+".pub"))
	known := knownHosts(t, s.line(t, "ed25519"))
	config := filepath.Join(t.TempDir(), "config")
	writeFile(t, config, "Host *\nIdentityAgent "+socket+"\nIdentityFile /nonexistent\n")
	o := Options{Host: "127.0.0.1", Port: s.addr.Port, User: localUser(t), ConfigFile: config, KnownHosts: []string{known}}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) {
		t.Errorf("four keys for two tries: %v", err)
	}
	o.Keys = []string{last + ".pub"} // names the one to try first; its private half is in the agent
	mustDial(t, o)
}

// A user certificate of an authority that the server trusts logs in without authorized_keys.
func TestUserCertificate(t *testing.T) {
	t.Parallel()
	ca := userKey(t)
	s := newServer(t, []string{"ed25519"}, "TrustedUserCAKeys "+ca+".pub")
	key := userKey(t)
	keygen(t, "-s", ca, "-I", "me", "-n", localUser(t), key+".pub")
	o := s.login(t, knownHosts(t, s.line(t, "ed25519")))
	o.Keys = []string{key}
	mustDial(t, o)
}

// The way through a jump host, by ssh_config aliases; both host keys are checked.
func TestProxyJump(t *testing.T) {
	t.Parallel()
	jump, inner := newServer(t, []string{"ed25519"}), newServer(t, []string{"ed25519"})
	key := userKey(t)
	for _, s := range []*server{jump, inner} {
		s.authorize(t, readString(t, key+".pub"))
	}
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Match host inner\n  HostName 127.0.0.1\n  Port %d\n  ProxyJump %s@gateway\n"+
		"Host gateway\n  HostName 127.0.0.1\n  Port %d\n"+
		"Host *\n  IdentityAgent none\n  IdentityFile \"%s\"\n  User %s\n", inner.addr.Port, localUser(t), jump.addr.Port, key, localUser(t))
	writeFile(t, config, text)
	both := knownHosts(t, jump.line(t, "ed25519"), inner.line(t, "ed25519"))
	c := mustDial(t, Options{Host: "inner", ConfigFile: config, KnownHosts: []string{both}})
	if out, _, _, err := c.Run(t.Context(), []string{"echo", "here"}, nil); err != nil || string(out) != "here\n" {
		t.Errorf("%q, %v", out, err)
	}
	if jump.conns.Load() != 1 || inner.conns.Load() != 1 {
		t.Errorf("%d connections to the jump host, %d to the inner one", jump.conns.Load(), inner.conns.Load())
	}
	for name, lines := range map[string]string{"jump host unknown": inner.line(t, "ed25519"), "inner host unknown": jump.line(t, "ed25519")} {
		_, err := Dial(t.Context(), Options{Host: "inner", ConfigFile: config, KnownHosts: []string{knownHosts(t, lines)}})
		if !errors.Is(err, ErrHostKeyUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Dial(t.Context(), Options{Host: "inner", ProxyJump: "none", ConfigFile: config, KnownHosts: []string{both}}); err != nil {
		t.Errorf("without the jump host: %v", err)
	}
	writeFile(t, config, "Host a\nProxyJump b\nHost b\nProxyJump a\n")
	if _, err := Dial(t.Context(), Options{Host: "a", ConfigFile: config}); !errors.Is(err, ErrConfig) ||
		!strings.Contains(err.Error(), "circle") {
		t.Errorf("circle: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "config")
	for text, want := range map[string]string{
		"Match of\nUser x\n":                                   "Match",
		"Host x\nProxyCommand nc a b\nProxyUseFdpass yes":      "ProxyUseFdpass",
		"Host x\nHostName a;b\nProxyCommand nc %h":             "not a name for the ProxyCommand",
		"Host x\nHostKeyAlias a;b\nProxyCommand nc %k":         "not a name for the ProxyCommand",
		"Host x\nPort many":                                    "many",
		"Host x\nProxyJump -oX=y":                              "-oX=y",
		"Host x\nIdentityFile ${SEALBATCH_NO_SUCH_VARIABLE}/k": "SEALBATCH_NO_SUCH_VARIABLE",
		"Host x\nHostKeyAlgorithms ssh-dss":                    "no algorithm for the host key of x",
	} {
		writeFile(t, config, text)
		if _, err := Dial(t.Context(), Options{Host: "x", ConfigFile: config}); !errors.Is(err, ErrConfig) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for want, o := range map[string]Options{
		"address": {Host: "-oProxyCommand=x"}, "set [supercomputer] address": {Host: "a;b"}, "username": {Host: "a", User: "b;c"},
	} {
		o.ConfigFile = "none"
		if _, err := Dial(t.Context(), o); !errors.Is(err, ErrConfig) || !strings.Contains(fault.Hint(err), want) {
			t.Errorf("host %q, user %q: %v", o.Host, o.User, err)
		}
	}
}

// A server that accepts and says nothing does not hold the user up for ever; nor does one after ctx's end.
func TestDialTimeout(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := Options{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, ConfigFile: "none", Timeout: 50 * time.Millisecond}
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrConnect) || !errors.Is(err, errTimeout) {
		t.Errorf("silent server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	o.Timeout = time.Hour
	if _, err := Dial(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_ = l.Close()
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrConnect) {
		t.Errorf("nobody listens: %v", err)
	}
}

// Keyboard-interactive (a one-time code) against a server made with x/crypto, since sshd needs PAM for it.
func TestKeyboardInteractive(t *testing.T) {
	t.Parallel()
	hostKey := userKey(t)
	signer, err := ssh.ParsePrivateKey([]byte(readString(t, hostKey) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	twoFactors := func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		got, err := ask("", "Two factors", []string{"Password: ", "Code: "}, []bool{false, true})
		if err == nil && !reflect.DeepEqual(got, []string{"pw", "123456"}) {
			err = errors.New("wrong")
		}
		return nil, err
	}
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: twoFactors}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if c, _, reqs, err := ssh.NewServerConn(conn, config); err == nil {
					ssh.DiscardRequests(reqs)
					_ = c.Close()
				}
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	o := Options{Host: "127.0.0.1", Port: port, ConfigFile: "none",
		KnownHosts: []string{knownHosts(t, fmt.Sprintf("[127.0.0.1]:%d %s", port, readString(t, hostKey+".pub")))},
		Prompt: func(_ context.Context, p Prompt) (string, error) {
			if p.Echo {
				return "123456", nil
			}
			return "pw", nil
		}}
	mustDial(t, o)
	o.Prompt = func(context.Context, Prompt) (string, error) { return "no", nil }
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrAuth) {
		t.Errorf("wrong answers: %v", err)
	}
}

// A key in the old format, whose public half is nowhere, is unlocked beforehand, as ssh does.
func TestPassphraseInPEM(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	for _, shape := range []string{"PEM", "PKCS8"} {
		key := userKey(t, "-t", "ecdsa", "-m", shape, "-N", "secret")
		s.authorize(t, readString(t, key+".pub"))
		if err := os.Remove(key + ".pub"); err != nil {
			t.Fatal(err)
		}
		o := s.login(t, knownHosts(t, s.line(t, "ed25519")))
		o.Keys = []string{key}
		asked := 0
		o.Prompt = func(context.Context, Prompt) (string, error) {
			asked++
			return []string{"wrong", "secret"}[min(asked, 2)-1], nil
		}
		mustDial(t, o)
		if asked != 2 {
			t.Errorf("%s: asked %d times", shape, asked)
		}
	}
}
