package sshconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
)

// reader is one reading of a configuration for a host, twice if it asks for that.
type reader struct {
	q         Query
	me        person
	host      string // what Host patterns are held against: as typed, then the full name
	v         Values
	final     bool // the second time
	wantFinal bool
}

// Read returns what the configuration says of a host, without ssh. Keywords that it does not use are passed
// over. Errors wrap ErrConfig, and name file and line, or are of files that cannot be used.
func Read(ctx context.Context, q Query) (Values, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	r := &reader{q: q, me: whoAmI(), host: q.Host, v: Values{}}
	if q.User != "" {
		r.v["user"] = []string{q.User}
	}
	if q.Port != 0 {
		r.v["port"] = []string{strconv.Itoa(q.Port)}
	}
	if err := r.files(ctx); err != nil {
		return nil, err
	}
	host, err := r.hostName()
	if err != nil {
		return nil, fmt.Errorf("%w: HostName: %w", ErrConfig, err)
	}
	r.host = r.canonical(ctx, strings.ToLower(host))
	if c := r.v.Get("canonicalizehostname"); r.wantFinal || c != "" && c != "false" {
		r.final = true
		r.v["hostname"] = []string{strings.ReplaceAll(r.host, "%", "%%")}
		if err := r.files(ctx); err != nil {
			return nil, err
		}
	}
	r.v["hostname"] = []string{r.host}
	return r.v, r.finish()
}

// files reads the user's file and the system's.
func (r *reader) files(ctx context.Context) error {
	for _, root := range r.q.roots(r.me) {
		err := r.file(ctx, root, true, 0)
		if err != nil && !(r.q.File == "" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// file reads one file. What stands before its first Host or Match counts if active.
func (r *reader) file(ctx context.Context, path string, active bool, depth int) error {
	lines, err := readFile(path)
	if err != nil {
		return err
	}
	reachable := active // a file that is included where nothing counts has nothing that counts
	for i, line := range lines {
		keyword, rest, err := splitLine(line)
		if err == nil && keyword != "" {
			active, err = r.line(ctx, keyword, rest, place{path, active, reachable, depth})
		}
		var own *lineError
		if errors.As(err, &own) {
			return err // of an included file
		}
		if err != nil {
			return &lineError{fmt.Errorf("%w: %s, line %d: %w", ErrConfig, path, i+1, err)}
		}
	}
	return nil
}

// lineError is an error that names its line.
type lineError struct{ error }

func (e *lineError) Unwrap() error { return e.error }

// place is where a line stands.
type place struct {
	path              string
	active, reachable bool
	depth             int
}

// line reads one line, and returns whether the next ones count.
func (r *reader) line(ctx context.Context, keyword, rest string, at place) (active bool, err error) {
	if keyword == "match" {
		if !at.reachable {
			return false, nil
		}
		return r.matches(ctx, rest)
	}
	kind, used := Keywords[keyword]
	if used && (kind == restOfLine || kind == jump) {
		return at.active, r.command(keyword, kind, rest, at.active)
	}
	args, err := splitWords(rest)
	if err != nil {
		return at.active, err
	}
	switch {
	case keyword == "host":
		return at.reachable && MatchList(args, r.host), nil
	case keyword == "include":
		return at.active, r.include(ctx, args, at)
	case used:
		return at.active, r.set(keyword, kind, args, at.active)
	}
	return at.active, nil
}

func (r *reader) include(ctx context.Context, patterns []string, at place) error {
	if at.depth >= maxDepth {
		return errors.New("too many files include each other")
	}
	for _, p := range patterns {
		found, err := included(p, r.me, strings.HasPrefix(at.path, systemDir+"/"))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := r.file(ctx, f, at.active, at.depth+1); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// hostName returns the host's name as it is known so far.
func (r *reader) hostName() (string, error) {
	name := r.v.Get("hostname")
	if name == "" {
		return r.host, nil
	}
	return table{'%': "%", 'h': r.host}.expand(name, false)
}

// canonical returns the host's full name where CanonicalizeHostname asks for it and a domain has it.
func (r *reader) canonical(ctx context.Context, host string) string {
	mode := r.v.Get("canonicalizehostname")
	direct := r.v.Get("proxyjump") == "" && r.v.Get("proxycommand") == ""
	dots := 1
	if r.v.Get("canonicalizemaxdots") != "" {
		dots = r.v.Int("canonicalizemaxdots")
	}
	if mode == "" || mode == "false" || mode == "true" && !direct || net.ParseIP(host) != nil ||
		strings.Count(host, ".") > dots {
		return host
	}
	for _, domain := range r.v["canonicaldomains"] {
		full := host + "." + domain
		if found, err := net.DefaultResolver.LookupHost(ctx, full); err == nil && len(found) > 0 {
			return strings.ToLower(full)
		}
	}
	return host
}

// finish puts in the defaults, and replaces tokens where ssh -G does.
func (r *reader) finish() error {
	for keyword, all := range defaults {
		if len(r.v[keyword]) == 0 {
			r.v[keyword] = slices.Clone(all)
		}
	}
	if len(r.v["user"]) == 0 {
		r.v["user"] = []string{r.me.name}
	}
	r.v["hostkeyalgorithms"] = []string{algorithms(r.v.Get("hostkeyalgorithms"))}
	for _, keyword := range []string{"proxyjump", "proxycommand", "revokedhostkeys"} {
		if strings.EqualFold(r.v.Get(keyword), "none") {
			delete(r.v, keyword)
		}
	}
	with := tokens(r.me, r.q, r.v)
	for _, keyword := range []string{"userknownhostsfile", "identityagent"} {
		for i, s := range r.v[keyword] {
			s, err := with.path(s, r.me)
			if err != nil {
				return err
			}
			r.v[keyword][i] = s
		}
	}
	return nil
}

var defaults = Values{
	"port": {"22"}, "addressfamily": {"any"}, "stricthostkeychecking": {"ask"}, "identitiesonly": {"no"},
	"proxyusefdpass": {"no"}, "canonicalizehostname": {"false"}, "serveraliveinterval": {"0"}, "serveralivecountmax": {"3"},
	"identityfile":         {"~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ecdsa_sk", "~/.ssh/id_ed25519", "~/.ssh/id_ed25519_sk"},
	"userknownhostsfile":   {"~/.ssh/known_hosts", "~/.ssh/known_hosts2"},
	"globalknownhostsfile": {"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"},
}
