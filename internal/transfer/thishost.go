package transfer

import (
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
)

// sshPort is where the login node of ThisHost listens; another port may lead elsewhere.
const sshPort = 22

// Myself returns the name of this process's user; "" if it has none.
func Myself(ctx context.Context) string {
	u, err := sitecmd.Lookup(ctx, strconv.Itoa(os.Geteuid()))
	if err != nil {
		return ""
	}
	return u.Name
}

// ThisHost reports whether Dial would lead to this very machine and user: o.Host, after
// ssh_config, is this machine's name or has one of its addresses, no jump host or command is
// in between, and port and user are the usual ones. What means this machine everywhere
// (localhost, 127.0.0.1) does not: it may be a tunnel's end.
func ThisHost(ctx context.Context, o Options) bool {
	t, err := o.resolve(ctx, sshconfig.Query{Host: o.Host, User: o.User, Port: o.Port})
	if err != nil { // Dial says so
		return false
	}
	jumps := len(t.jumps) > 0 || t.proxyCommand != "" || o.ProxyJump != "" && !strings.EqualFold(o.ProxyJump, "none")
	if jumps || t.port != sshPort || t.user == "" || t.user != Myself(ctx) {
		return false
	}
	return isThisHost(ctx, t.host)
}

// isThisHost reports whether a host is this machine, seen from elsewhere.
func isThisHost(ctx context.Context, host string) bool {
	if name, err := os.Hostname(); err == nil && strings.EqualFold(name, host) && !strings.EqualFold(name, "localhost") {
		return true
	}
	found, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		own, ok := a.(*net.IPNet)
		return ok && !own.IP.IsLoopback() && !own.IP.IsLinkLocalUnicast() &&
			slices.ContainsFunc(found, func(f net.IPAddr) bool { return f.IP.Equal(own.IP) })
	})
}
