package sshconfig

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/sealbatch/sealbatch/internal/sitecmd"
)

// Expand returns a path of the configuration as OpenSSH takes it: a ~ at its beginning, tokens such as %h
// (ssh_config(5), TOKENS) and environment variables as ${HOME} are replaced. Errors wrap ErrConfig.
func Expand(s string, q Query, v Values) (string, error) {
	return tokens(whoAmI(), q, v).path(s, whoAmI())
}

// path expands a path of the user's, and places it.
func (t table) path(s string, me person) (string, error) {
	s, err := expandTilde(s, me)
	if err == nil {
		s, err = t.expand(s, true)
	}
	return me.place(s), err
}

// Command returns the ProxyCommand with its tokens replaced; the shell replaces the variables.
func Command(q Query, v Values) (string, error) {
	return tokens(whoAmI(), q, v).expand(v.Get("proxycommand"), false)
}

// table says what tokens stand for.
type table map[byte]string

// tokens returns those of ssh's client. v has to name the host; what else it lacks has its default.
func tokens(me person, q Query, v Values) table {
	local, err := os.Hostname()
	if err != nil {
		local = ""
	}
	short, _, _ := strings.Cut(local, ".")
	port, login := v.Get("port"), v.Get("user")
	if port == "" {
		port = "22"
	}
	if login == "" {
		login = me.name
	}
	key := v.Get("hostkeyalias")
	if key == "" {
		key = q.Host
	}
	all := sha1.Sum([]byte(local + v.Get("hostname") + port + login + v.Get("proxyjump")))
	return table{
		'%': "%", 'h': v.Get("hostname"), 'n': q.Host, 'p': port, 'r': login, 'u': me.name, 'd': me.home,
		'i': strconv.Itoa(os.Getuid()), 'l': local, 'L': short, 'k': key, 'j': v.Get("proxyjump"), 'C': hex.EncodeToString(all[:]),
	}
}

// expand replaces tokens and, if asked, variables.
func (t table) expand(s string, variables bool) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if name, ok := variableAt(s[i:]); ok && variables {
			value, set := os.LookupEnv(name)
			if !set {
				return "", fmt.Errorf("%w: the environment variable in %q has no value", ErrConfig, s)
			}
			out.WriteString(value)
			i += len(name) + len("${}") - 1
			continue
		}
		if s[i] != '%' {
			out.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", fmt.Errorf("%w: %q ends with half a token; write %%%% for a %%", ErrConfig, s)
		}
		value, ok := t[s[i]]
		if !ok {
			return "", fmt.Errorf("%w: %q has the token %%%c, which is not possible there", ErrConfig, s, s[i])
		}
		out.WriteString(value)
	}
	return out.String(), nil
}

var variableRE = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// variableAt returns the name of the variable that s begins with.
func variableAt(s string) (name string, ok bool) {
	m := variableRE.FindStringSubmatch(s)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// expandTilde replaces ~ and ~NAME at the beginning of a path.
func expandTilde(s string, me person) (string, error) {
	after, ok := strings.CutPrefix(s, "~")
	if !ok {
		return s, nil
	}
	name, below, _ := strings.Cut(after, "/")
	if name == "" {
		return filepath.Join(me.home, below), nil
	}
	u, err := sitecmd.Lookup(context.Background(), name)
	if err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrConfig, s, err)
	}
	return filepath.Join(u.Home, below), nil
}
