package transfer

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// server is a real OpenSSH sshd: the test accepts connections and starts `sshd -i` for each.
type server struct {
	dir   string
	addr  *net.TCPAddr
	conns atomic.Int32

	mu   sync.Mutex
	cmds []*exec.Cmd
	log  bytes.Buffer
}

// newServer starts a server with host keys of the given types, and lines for its sshd_config.
func newServer(t *testing.T, hostKeys []string, lines ...string) *server {
	t.Helper()
	s := &server{dir: t.TempDir()}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // privilege separation; needs root
		t.Fatal(err)
	}
	config := "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nPrintMotd no\nLogLevel VERBOSE\n" +
		"AuthorizedKeysFile " + s.dir + "/authorized_keys\nSubsystem sftp internal-sftp\n"
	for _, kind := range hostKeys {
		keygen(t, "-t", kind, "-f", s.hostKey(kind))
		config += "HostKey " + s.hostKey(kind) + "\n"
	}
	writeFile(t, filepath.Join(s.dir, "sshd_config"), config+strings.Join(lines, "\n")+"\n")
	writeFile(t, filepath.Join(s.dir, "authorized_keys"), "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().(*net.TCPAddr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(l)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		s.kill()
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("sshd: %s", s.log.String())
		}
	})
	return s
}

func (s *server) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		f, err := conn.(*net.TCPConn).File()
		_ = conn.Close()
		if err != nil {
			continue
		}
		cmd := exec.Command("/usr/sbin/sshd", "-i", "-e", "-f", filepath.Join(s.dir, "sshd_config"))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, (*lockedWriter)(s)
		s.mu.Lock()
		if err := cmd.Start(); err == nil {
			s.cmds = append(s.cmds, cmd)
		}
		s.mu.Unlock()
		_ = f.Close()
	}
}

// lockedWriter collects the log of several processes.
type lockedWriter server

func (w *lockedWriter) Write(p []byte) (int, error) {
	s := (*server)(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// kill ends all connections the hard way.
func (s *server) kill() {
	s.mu.Lock()
	cmds := s.cmds
	s.cmds = nil
	s.mu.Unlock()
	for _, c := range cmds {
		_ = exec.Command("pkill", "-KILL", "-P", fmt.Sprint(c.Process.Pid)).Run()
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

func (s *server) hostKey(kind string) string { return filepath.Join(s.dir, "host_"+kind) }

// name is the server in known_hosts.
func (s *server) name() string { return fmt.Sprintf("[127.0.0.1]:%d", s.addr.Port) }

// knownHosts writes a known_hosts file with the public keys of other files, for these servers.
func knownHosts(t *testing.T, lines ...string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "known_hosts")
	writeFile(t, p, strings.Join(lines, "\n")+"\n")
	return p
}

// line is the server's line in known_hosts.
func (s *server) line(t *testing.T, kind string) string {
	t.Helper()
	return s.name() + " " + readString(t, s.hostKey(kind)+".pub")
}

// authorize lets a key log in.
func (s *server) authorize(t *testing.T, public string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.dir, "authorized_keys"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(public + "\n"); err != nil {
		t.Fatal(err)
	}
}

// userKey makes a key pair and gives its path.
func userKey(t *testing.T, args ...string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "id")
	keygen(t, append([]string{"-t", "ed25519", "-f", p}, args...)...)
	return p
}

func keygen(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-a", "1"}, args...) // a passphrase is to be no trouble: bcrypt takes seconds where races are looked for
	if slices.Contains(args, "rsa") {
		args = append(args, "-b", "2048") // larger ones take seconds
	}
	if !slices.Contains(args, "-N") && !slices.Contains(args, "-s") {
		args = append(args, "-N", "")
	}
	if out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readString(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// login returns options that log in to the server by its address, with a configuration of these lines.
func (s *server) login(t *testing.T, known string, config ...string) Options {
	t.Helper()
	p := filepath.Join(t.TempDir(), "config")
	writeFile(t, p, "Host *\nIdentityAgent none\nIdentityFile /nonexistent/key\n"+strings.Join(config, "\n")+"\n")
	return Options{Host: "127.0.0.1", Port: s.addr.Port, User: localUser(t), ConfigFile: p, KnownHosts: []string{known}}
}

func localUser(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// reach is how to log in with a fresh key.
func reach(t *testing.T, s *server) Options {
	t.Helper()
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	o := s.login(t, knownHosts(t, s.line(t, "ed25519")))
	o.Keys = []string{key}
	return o
}

// dial logs in with a fresh key, and closes the connection at the end. Uploads use no other, however
// slow this machine is.
func dial(t *testing.T, s *server) *Client {
	t.Helper()
	o := reach(t, s)
	o.Connections = 1
	return mustDial(t, o)
}

func mustDial(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Dial(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// signal sends a signal to every process that serves a connection.
func (s *server) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.cmds {
		out, err := exec.Command("pkill", fmt.Sprintf("-%d", sig), "-P", fmt.Sprint(c.Process.Pid)).CombinedOutput()
		if err != nil {
			t.Fatalf("pkill: %v %s", err, out)
		}
		if err := c.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
}
