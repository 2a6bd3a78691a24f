package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// target is one host to log in to, after ssh_config.
type target struct {
	alias, host, user string
	port              int
	hostKeyAlias      string
	keys, certs       []string
	identitiesOnly    bool
	agentSocket       string // "" means no agent
	jumps             []string
	knownHosts        []string
	aliveInterval     time.Duration // 0 means none is set
	aliveMisses       int
}

// address returns HOST:PORT.
func (t *target) address() string { return net.JoinHostPort(t.host, strconv.Itoa(t.port)) }

// hostKeyAddress is the name under which known_hosts has the key.
func (t *target) hostKeyAddress() string {
	if t.hostKeyAlias != "" {
		return net.JoinHostPort(t.hostKeyAlias, "22")
	}
	return t.address()
}

// sshConfig is the user's file and the system's, in this order.
type sshConfig struct {
	files []*ssh_config.Config
	home  string
}

const systemConfig = "/etc/ssh/ssh_config"

// loadConfig reads the user's file at path ("" means ~/.ssh/config, "none" means no file at all).
// A system file that the parser cannot read is skipped, since the user could do nothing about it.
func loadConfig(path string) (*sshConfig, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fail(Error{Kind: ErrConfig, What: "no home directory", Err: err})
	}
	c := &sshConfig{home: home}
	if path == "none" {
		return c, nil
	}
	own := path
	if own == "" {
		own = filepath.Join(home, ".ssh", "config")
	}
	file, err := parseConfig(own)
	if err != nil && !(path == "" && errors.Is(err, fs.ErrNotExist)) {
		next := `name a simpler file, or none, with [supercomputer] ssh-config`
		if errors.Is(err, trusted.ErrUnsafe) {
			next = fault.Hint(err)
		}
		return nil, fail(Error{Kind: ErrConfig, What: "cannot use " + own, Err: err, Next: next})
	}
	if err == nil {
		c.files = append(c.files, file)
	}
	if path == "" { // as ssh -F does, a file of one's own replaces the system's too
		if file, err := parseConfig(systemConfig); err == nil {
			c.files = append(c.files, file)
		}
	}
	return c, nil
}

func parseConfig(path string) (*ssh_config.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted.CheckFile(f, trusted.Public); err != nil { // as ssh does
		return nil, err
	}
	c, err := ssh_config.Decode(f)
	if err != nil {
		return nil, err
	}
	return c, checkIncludes(c)
}

func (c *sshConfig) get(alias, key string) string {
	for _, f := range c.files {
		if v, err := f.Get(alias, key); err == nil && v != "" {
			return v
		}
	}
	return ""
}

func (c *sshConfig) getAll(alias, key string) []string {
	var out []string
	for _, f := range c.files {
		if v, err := f.GetAll(alias, key); err == nil {
			out = append(out, v...)
		}
	}
	return out
}

// resolve applies ssh_config to an alias. login and port override it if they are not zero.
func (c *sshConfig) resolve(alias, login string, port int) (*target, error) {
	t := &target{alias: alias, user: login, port: port}
	if command := c.get(alias, "ProxyCommand"); command != "" && !strings.EqualFold(command, "none") && c.get(alias, "ProxyJump") == "" {
		return nil, fail(Error{Kind: ErrConfig, Next: "use ProxyJump",
			What: fmt.Sprintf("ssh_config sets ProxyCommand for %s, which is not supported", alias)})
	}
	if t.user == "" {
		t.user = c.get(alias, "User")
	}
	if t.user == "" {
		if u, err := user.Current(); err == nil {
			t.user = u.Username
		}
	}
	if err := c.resolvePort(t); err != nil {
		return nil, err
	}
	t.host = alias
	if h := c.get(alias, "HostName"); h != "" {
		t.host = strings.NewReplacer("%%", "%", "%h", alias, "%n", alias).Replace(h)
	}
	t.hostKeyAlias = c.get(alias, "HostKeyAlias")
	if jump := c.get(alias, "ProxyJump"); jump != "" && !strings.EqualFold(jump, "none") {
		t.jumps = strings.Split(jump, ",")
	}
	c.resolveKeys(t)
	c.resolveAlive(t)
	return t, nil
}

// resolveAlive takes whole seconds; anything else means the default, as does ssh's own default of 0,
// which would let a dead connection hang for hours.
func (c *sshConfig) resolveAlive(t *target) {
	if n, err := strconv.ParseUint(c.get(t.alias, "ServerAliveInterval"), 10, 16); err == nil {
		t.aliveInterval = time.Duration(n) * time.Second
	}
	t.aliveMisses = defaultMisses
	if n, err := strconv.ParseUint(c.get(t.alias, "ServerAliveCountMax"), 10, 10); err == nil && n > 0 {
		t.aliveMisses = int(n)
	}
}

func (c *sshConfig) resolvePort(t *target) error {
	if p := c.get(t.alias, "Port"); t.port == 0 && p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return fail(Error{Kind: ErrConfig, What: fmt.Sprintf("ssh_config: %q is not a port", p)})
		}
		t.port = int(n)
	}
	if t.port == 0 {
		t.port = 22
	}
	return nil
}

func (c *sshConfig) resolveKeys(t *target) {
	for _, k := range c.getAll(t.alias, "IdentityFile") {
		t.keys = append(t.keys, c.expand(k, t))
	}
	if len(t.keys) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			t.keys = append(t.keys, filepath.Join(c.home, ".ssh", name))
		}
	}
	for _, k := range c.getAll(t.alias, "CertificateFile") {
		t.certs = append(t.certs, c.expand(k, t))
	}
	t.identitiesOnly = strings.EqualFold(c.get(t.alias, "IdentitiesOnly"), "yes")
	t.agentSocket = os.Getenv("SSH_AUTH_SOCK")
	switch a := c.get(t.alias, "IdentityAgent"); {
	case strings.EqualFold(a, "none"):
		t.agentSocket = ""
	case strings.HasPrefix(a, "$"):
		t.agentSocket = os.Getenv(strings.Trim(a[1:], "{}"))
	case a != "" && a != "SSH_AUTH_SOCK":
		t.agentSocket = c.expand(a, t)
	}
	user, global := c.get(t.alias, "UserKnownHostsFile"), c.get(t.alias, "GlobalKnownHostsFile")
	if user == "" {
		user = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
	}
	if global == "" {
		global = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
	}
	for _, p := range append(strings.Fields(user), strings.Fields(global)...) {
		if p != "none" {
			t.knownHosts = append(t.knownHosts, c.expand(p, t))
		}
	}
}

// expand replaces ~ and ssh_config's tokens in a path.
func (c *sshConfig) expand(p string, t *target) string {
	local, _ := os.Hostname()
	localUser := ""
	if u, err := user.Current(); err == nil {
		localUser = u.Username
	}
	p = strings.NewReplacer("%%", "%", "%d", c.home, "%h", t.host, "%n", t.alias, "%p", strconv.Itoa(t.port),
		"%r", t.user, "%u", localUser, "%l", local).Replace(p)
	if p == "~" || strings.HasPrefix(p, "~/") {
		p = c.home + p[1:]
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(c.home, p)
	}
	return p
}

// splitHop reads "[user@]host[:port]", as ssh -J takes it.
func splitHop(s string) (login, host string, port int, err error) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "ssh://")
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		login, s = s[:at], s[at+1:]
	}
	host = strings.Trim(s, "[]")
	if h, p, splitErr := net.SplitHostPort(s); splitErr == nil {
		n, parseErr := strconv.ParseUint(p, 10, 16)
		if parseErr != nil || n == 0 {
			return "", "", 0, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("%q is not a port", p)})
		}
		host, port = h, int(n)
	}
	if host == "" || strings.HasPrefix(host, "-") {
		return "", "", 0, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("%q is not a host", s)})
	}
	return login, host, port, nil
}
