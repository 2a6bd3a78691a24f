package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// target is one host to log in to, after ssh_config.
type target struct {
	alias, host, user string
	port              int
	hostKeyAlias      string
	hostKeyAlgorithms []string // those that ssh_config allows; nil for all
	keys, certs       []string
	identitiesOnly    bool
	agentSocket       string // "" means no agent
	jumps             []string
	proxyCommand      string // for the shell; "" for none
	knownHosts        []string
	revoked           []string // files of RevokedHostKeys
	family            string   // "inet", "inet6", or "any"
	bindAddress       string
	connectTimeout    time.Duration // 0 means none is set
	aliveInterval     time.Duration // 0 means none is set
	aliveMisses       int
	strict            string // StrictHostKeyChecking as ssh -G has it
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

// resolve applies ssh_config to a host.
func resolve(ctx context.Context, q sshconfig.Query) (*target, error) {
	v, err := sshconfig.Look(ctx, q)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		what, next := "cannot use ssh_config", "mend that, or name another file, or none, with [supercomputer] ssh-config"
		if errors.Is(err, sshconfig.ErrConfig) {
			what = ""
		}
		if errors.Is(err, trusted.ErrUnsafe) {
			next = fault.Hint(err)
		}
		return nil, configError(what, err, next)
	}
	t := &target{
		alias: q.Host, host: v.Get("hostname"), user: v.Get("user"), port: v.Int("port"),
		hostKeyAlias: v.Get("hostkeyalias"), identitiesOnly: v.Get("identitiesonly") == "yes",
		family: v.Get("addressfamily"), bindAddress: v.Get("bindaddress"), strict: v.Get("stricthostkeychecking"),
		connectTimeout: time.Duration(v.Int("connecttimeout")) * time.Second,
		aliveInterval:  time.Duration(v.Int("serveraliveinterval")) * time.Second,
		aliveMisses:    cmp.Or(v.Int("serveralivecountmax"), defaultMisses),
	}
	if a := v.Get("hostkeyalgorithms"); a != "" {
		t.hostKeyAlgorithms = strings.Split(a, ",")
	}
	if jump := v.Get("proxyjump"); jump != "" && !strings.EqualFold(jump, "none") {
		t.jumps = strings.Split(jump, ",")
	}
	for _, list := range []string{"userknownhostsfile", "globalknownhostsfile"} {
		t.knownHosts = append(t.knownHosts, slices.DeleteFunc(v[list], func(p string) bool { return strings.EqualFold(p, "none") })...)
	}
	t.agentSocket = agentSocket(v.Get("identityagent"))
	for _, expand := range []func(sshconfig.Query, sshconfig.Values) error{t.resolveKeys, t.resolveRevoked, t.resolveCommand} {
		if err := expand(q, v); err != nil {
			return nil, configError("", err, "ssh -v "+q.Host+" says more")
		}
	}
	return t, nil
}

// configError is an ErrConfig; what may be empty, where err says it all.
func configError(what string, err error, next string) error {
	if what == "" {
		return fail(Error{Kind: ErrConfig, What: err.Error(), Next: next})
	}
	return fail(Error{Kind: ErrConfig, What: what, Err: err, Next: next})
}

// resolveKeys finds the files of keys and certificates.
func (t *target) resolveKeys(q sshconfig.Query, v sshconfig.Values) error {
	for keyword, list := range map[string]*[]string{"identityfile": &t.keys, "certificatefile": &t.certs} {
		for _, name := range v[keyword] {
			if strings.EqualFold(name, "none") {
				continue
			}
			path, err := sshconfig.Expand(name, q, v)
			if err != nil {
				return err
			}
			*list = append(*list, path)
		}
	}
	return nil
}

// agentSocket returns where the agent listens, as IdentityAgent says it.
func agentSocket(s string) string {
	switch {
	case strings.EqualFold(s, "none"):
		return ""
	case s == "" || s == "SSH_AUTH_SOCK":
		return os.Getenv("SSH_AUTH_SOCK")
	case s[0] == '$':
		return os.Getenv(strings.Trim(s[1:], "{}"))
	}
	return s
}

// hop reads one jump host.
func hop(s string) (q sshconfig.Query, err error) {
	if q.User, q.Host, q.Port, err = sshconfig.Hop(s); err != nil {
		return q, configError("", err, "a jump host is [user@]host[:port]")
	}
	return q, nil
}

// route lists the hosts to go through, the login node last.
func (o *Options) route(ctx context.Context) ([]*target, error) {
	last, err := o.resolve(ctx, sshconfig.Query{Host: o.Host, User: o.User, Port: o.Port})
	if err != nil {
		return nil, err
	}
	switch {
	case strings.EqualFold(o.ProxyJump, "none"):
		last.jumps = nil // a ProxyCommand stays, as with ssh -J none
	case o.ProxyJump != "":
		last.jumps, last.proxyCommand = strings.Split(o.ProxyJump, ","), ""
	}
	route, jumps := []*target{last}, last.jumps
	for len(jumps) > 0 {
		if len(route) > maxHops {
			return nil, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("more than %d jump hosts; does ProxyJump lead in a circle?", maxHops)})
		}
		q, err := hop(jumps[len(jumps)-1])
		if err != nil {
			return nil, err
		}
		t, err := o.resolve(ctx, q)
		if err != nil {
			return nil, err
		}
		route = append([]*target{t}, route...)
		if jumps = jumps[:len(jumps)-1]; len(jumps) == 0 {
			jumps = t.jumps // only the first of the chain uses its own ProxyJump, as with ssh
		} else {
			t.proxyCommand = ""
		}
	}
	return route, nil
}

// resolve applies ssh_config to a host, and puts what client.conf says before that.
func (o *Options) resolve(ctx context.Context, q sshconfig.Query) (*target, error) {
	if sshconfig.CheckHost(q.Host) != nil {
		return nil, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("%q is not a host", q.Host), Next: "set [supercomputer] address"})
	}
	if sshconfig.CheckUser(q.User) != nil {
		return nil, fail(Error{Kind: ErrConfig, What: fmt.Sprintf("%q is not a user", q.User), Next: "set [supercomputer] username"})
	}
	q.File = o.ConfigFile
	t, err := resolve(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(o.KnownHosts) > 0 {
		t.knownHosts = o.KnownHosts
	}
	t.keys = append(slices.Clone(o.Keys), t.keys...)
	return t, nil
}
