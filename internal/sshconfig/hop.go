package sshconfig

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Hop reads [ssh://][user@]host[:port][/], as ssh -J takes it. Errors wrap ErrConfig.
func Hop(s string) (login, host string, port int, err error) {
	rest, uri := strings.CutPrefix(strings.TrimSpace(s), "ssh://")
	if uri {
		rest = strings.TrimSuffix(rest, "/")
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		login, rest = rest[:at], rest[at+1:]
	}
	host = strings.Trim(rest, "[]")
	if h, p, splitErr := net.SplitHostPort(rest); splitErr == nil {
		n, parseErr := strconv.ParseUint(p, 10, 16)
		if parseErr != nil || n == 0 {
			return "", "", 0, fmt.Errorf("%w: %q is not a port", ErrConfig, p)
		}
		host, port = h, int(n)
	}
	if host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, blanks) {
		return "", "", 0, fmt.Errorf("%w: %q is not a host", ErrConfig, s)
	}
	return login, host, port, nil
}
