package sshconfig

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// maxLines bounds the values of a keyword of which every line counts, as OpenSSH does for keys.
const maxLines = 100

// set takes the arguments of a line that counts, if it is the first of its keyword.
func (r *reader) set(keyword string, kind kind, args []string, active bool) error {
	if len(args) == 0 || args[0] == "" {
		return errors.New("its keyword has no argument")
	}
	if kind != files && len(args) > 1 {
		return fmt.Errorf("%s has more than one argument; put it in double quotes", keyword)
	}
	value, err := parseValue(keyword, kind, args[0])
	if err != nil || !active {
		return err
	}
	switch {
	case kind == each:
		if len(r.v[keyword]) < maxLines && !slices.Contains(r.v[keyword], value) {
			r.v[keyword] = append(r.v[keyword], value)
		}
	case len(r.v[keyword]) > 0:
	case kind == files:
		r.v[keyword] = args
	case value != "":
		r.v[keyword] = []string{value}
	}
	return nil
}

// parseValue returns a value as ssh -G writes it; "" if the line says nothing.
func parseValue(keyword string, kind kind, arg string) (string, error) {
	switch kind {
	case number:
		n, err := strconv.Atoi(arg)
		if keyword == "port" {
			if err != nil {
				n, err = net.LookupPort("tcp", arg)
			}
			if err != nil || n < 1 || n > 65535 {
				return "", fmt.Errorf("%q is not a port", arg)
			}
		}
		if err != nil {
			return "", fmt.Errorf("%s: %q is not a number", keyword, arg)
		}
		return strconv.Itoa(n), nil
	case span:
		if arg == "none" {
			return "", nil
		}
		n, ok := parseSpan(arg)
		if !ok {
			return "", fmt.Errorf("%s: %q is not a time", keyword, arg)
		}
		return strconv.Itoa(n), nil
	case choice:
		value, ok := choices[keyword][strings.ToLower(arg)]
		if !ok {
			return "", fmt.Errorf("%s: %q is not possible", keyword, arg)
		}
		return value, nil
	}
	return arg, nil
}

var yesNo = map[string]string{"yes": "yes", "true": "yes", "no": "no", "false": "no"}

// choices are the words of keywords that take one of some, and what ssh -G calls them.
var choices = map[string]map[string]string{
	"identitiesonly": yesNo, "proxyusefdpass": yesNo,
	"addressfamily": {"any": "any", "inet": "inet", "inet6": "inet6"},
	"stricthostkeychecking": {
		"yes": "true", "true": "true", "no": "false", "false": "false", "off": "false", "ask": "ask", "accept-new": "accept-new",
	},
	"canonicalizehostname": {"yes": "true", "true": "true", "no": "false", "false": "false", "always": "always"},
}

// parseSpan reads seconds, or times such as 1h30m (TIME FORMATS in sshd_config(5)).
func parseSpan(s string) (seconds int, ok bool) {
	units := map[byte]int{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}
	for s != "" {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		n, err := strconv.Atoi(s[:i])
		if err != nil || n > 1<<31 {
			return 0, false
		}
		unit := 1
		if i < len(s) {
			if unit = units[s[i]|0x20]; unit == 0 {
				return 0, false
			}
			i++
		}
		seconds += n * unit
		s = s[i:]
	}
	return seconds, true
}

// command takes ProxyCommand and ProxyJump, of which the first counts.
func (r *reader) command(keyword string, kind kind, value string, active bool) error {
	if kind == jump {
		value, _, _ = strings.Cut(value, "#")
		value = strings.TrimRight(value, blanks)
		if strings.ContainsAny(value, blanks) || value == "" {
			return fmt.Errorf("%q is not a list of jump hosts", value)
		}
		for hop := range strings.SplitSeq(value, ",") {
			if _, _, _, err := Hop(hop); err != nil && !strings.EqualFold(value, "none") {
				return err
			}
		}
	}
	before := r.v.Get("proxyjump")
	if strings.EqualFold(before, "none") && kind == restOfLine {
		before = "" // "ProxyJump none" leaves room for a command
	}
	if active && before == "" && r.v.Get("proxycommand") == "" {
		r.v[keyword] = []string{value}
		if kind == restOfLine {
			delete(r.v, "proxyjump")
		}
	}
	return nil
}

// OpenSSH's algorithms for host keys: all in the order of its own table, and those that it offers.
const (
	allAlgorithms = "ssh-ed25519,ssh-ed25519-cert-v01@openssh.com,sk-ssh-ed25519@openssh.com," +
		"sk-ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp256-cert-v01@openssh.com," +
		"ecdsa-sha2-nistp384,ecdsa-sha2-nistp384-cert-v01@openssh.com,ecdsa-sha2-nistp521," +
		"ecdsa-sha2-nistp521-cert-v01@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com," +
		"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com,webauthn-sk-ecdsa-sha2-nistp256@openssh.com," +
		"ssh-dss,ssh-dss-cert-v01@openssh.com,ssh-rsa,ssh-rsa-cert-v01@openssh.com,rsa-sha2-256," +
		"rsa-sha2-256-cert-v01@openssh.com,rsa-sha2-512,rsa-sha2-512-cert-v01@openssh.com"
	usualAlgorithms = "ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256-cert-v01@openssh.com," +
		"ecdsa-sha2-nistp384-cert-v01@openssh.com,ecdsa-sha2-nistp521-cert-v01@openssh.com," +
		"sk-ssh-ed25519-cert-v01@openssh.com,sk-ecdsa-sha2-nistp256-cert-v01@openssh.com," +
		"rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com,ssh-ed25519,ecdsa-sha2-nistp256," +
		"ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,sk-ssh-ed25519@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com," +
		"rsa-sha2-512,rsa-sha2-256"
)

// algorithms returns the list that HostKeyAlgorithms makes: its own, or the usual one with some appended (+),
// removed (-) or put first (^).
func algorithms(s string) string {
	all, usual := strings.Split(allAlgorithms, ","), strings.Split(usualAlgorithms, ",")
	if s == "" {
		return usualAlgorithms
	}
	named := strings.Split(strings.TrimLeft(s, "+-^"), ",")
	var patterns []string
	switch s[0] {
	case '-':
		return strings.Join(slices.DeleteFunc(usual, func(a string) bool { return MatchList(named, a) }), ",")
	case '+':
		patterns = append(usual, named...)
	case '^':
		patterns = append(named, usual...)
	default:
		patterns = named
	}
	var out []string
	for _, p := range patterns {
		for _, a := range all {
			if MatchPattern(p, a) && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return strings.Join(out, ",")
}
