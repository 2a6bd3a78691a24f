package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// Mirror says where the images of a registry are to be had, too.
type Mirror struct {
	Of string // what is mirrored, a host or a prefix of names: "docker.io", "quay.io/biocontainers"
	At string // where: HOST[:PORT][/PREFIX]
}

// ParseMirror reads OF=AT, as in docker.io=https://mirror.example/hub. AT may go without https://; http:// is
// this machine's only.
func ParseMirror(s string) (Mirror, error) {
	of, at, ok := strings.Cut(s, "=")
	of, at = strings.TrimRight(strings.TrimSpace(of), "/"), strings.TrimRight(strings.TrimSpace(at), "/")
	if !ok || of == "" || at == "" {
		return Mirror{}, badMirror(s, "it is not REGISTRY=MIRROR")
	}
	if scheme, rest, ok := strings.Cut(at, "://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		if scheme != "https" && (scheme != "http" || !loopback(host)) {
			return Mirror{}, badMirror(s, errPlain.Error())
		}
		at = rest
	}
	m := Mirror{Of: of, At: at}
	if r, err := repository(at + "/x"); err != nil || r.RegistryStr() == name.DefaultRegistry ||
		strings.Contains(r.RegistryStr(), "@") {
		return Mirror{}, badMirror(s, "the mirror is not HOST[:PORT][/PREFIX]")
	}
	return m, nil
}

func badMirror(s, why string) error {
	return fault.New(fault.Config, fmt.Errorf("mirror %.200q: %s", text.Printable(s), why),
		"as in docker.io=https://mirror.example/hub")
}

// repository reads HOST[:PORT]/NAME.
func repository(s string) (name.Repository, error) {
	r, err := name.NewRepository(s)
	if err == nil && loopback(r.RegistryStr()) {
		r, err = name.NewRepository(s, name.Insecure)
	}
	if err == nil && !names.MatchString(r.RepositoryStr()) {
		err = ErrReference
	}
	return r, err
}

// at returns where something that is called full is to be had by the rule that what begins with of is at to.
func at(full, of, to string) (name.Repository, bool) {
	rest, ok := strings.CutPrefix(full, of)
	if !ok || (rest != "" && rest[0] != '/') {
		return name.Repository{}, false
	}
	r, err := repository(to + rest)
	return r, err == nil
}

// rule is a [[registry]] of Podman's registries.conf, version 2 (containers-registries.conf(5)),
// as far as it is followed here: the longest prefix that fits counts; names with a wildcard are left alone.
type rule struct {
	Prefix   string
	Location string
	Blocked  bool
	Mirror   []struct {
		Location string
		Insecure bool
		From     string `toml:"pull-from-mirror"`
	}
	Digests bool `toml:"mirror-by-digest-only"`
}

const maxRules = 1 << 20 // bytes of a file

// rules reads the user's registries.conf, or else the machine's, and what lies in the directories beside them.
func rules(getenv func(string) string) ([]rule, error) {
	files := []string{"/etc/containers/registries.conf", "/etc/containers/registries.conf.d/*.conf"}
	if home := getenv("HOME"); home != "" {
		own := filepath.Join(home, ".config/containers/registries.conf")
		if found, _ := filepath.Glob(own); len(found) > 0 {
			files[0] = own
		}
		files = append(files, own+".d/*.conf")
	}
	if f := getenv("CONTAINERS_REGISTRIES_CONF"); f != "" {
		files = []string{f}
	}
	var all []rule
	for _, pattern := range files {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			some, err := readRules(f)
			if err != nil {
				return nil, fault.New(fault.Config, fmt.Errorf("mirrors of registries: %w", err),
					"Podman reads it, too: mend it, or let CONTAINERS_REGISTRIES_CONF name another")
			}
			all = append(all, some...)
		}
	}
	return all, nil
}

func readRules(path string) ([]rule, error) {
	b, err := trusted.ReadFile(path, maxRules)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	some, err := parseRules(b)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %.300s", path, text.Printable(err.Error()))
	}
	return some, nil
}

func parseRules(b []byte) ([]rule, error) {
	var doc struct{ Registry []rule }
	if _, err := toml.Decode(string(b), &doc); err != nil {
		return nil, err
	}
	for i := range doc.Registry {
		if r := &doc.Registry[i]; r.Prefix == "" {
			r.Prefix = r.Location
		}
	}
	return doc.Registry, nil
}

// follow returns where the rules send ref: mirrors, and last the registry that counts. Of rules of the same prefix the
// last one counts.
func follow(ref Reference, all []rule) (mirrors []name.Repository, registry name.Repository, err error) {
	full, registry := ref.Host()+"/"+ref.Repository(), ref.repo
	var best *rule
	for i, r := range all {
		if _, ok := at(full, r.Prefix, r.Prefix); ok && r.Prefix != "" &&
			(best == nil || len(r.Prefix) >= len(best.Prefix)) {
			best = &all[i]
		}
	}
	switch {
	case best == nil:
		return nil, registry, nil
	case best.Blocked:
		return nil, registry, fault.New(fault.Config, fmt.Errorf("image %s: registries.conf blocks %s", ref,
			best.Prefix), "ask whoever wrote that, or use another registry")
	}
	for _, m := range best.Mirror {
		unwanted := m.Insecure || (ref.digest == "" && (m.From == "digest-only" || best.Digests)) ||
			(ref.digest != "" && m.From == "tag-only")
		if repo, ok := at(full, best.Prefix, m.Location); ok && !unwanted {
			mirrors = append(mirrors, repo)
		}
	}
	if best.Location != "" {
		if repo, ok := at(full, best.Prefix, best.Location); ok {
			registry = repo
		}
	}
	return mirrors, registry, nil
}

// wanted returns the places of ref by the caller's mirrors and by registries.conf, the one that counts last.
func (r *Remote) wanted() ([]*source, error) {
	all, err := rules(r.o.Getenv)
	if err != nil {
		return nil, err
	}
	mirrors, registry, err := follow(r.Reference, all)
	if err != nil {
		return nil, err
	}
	var out []*source
	add := func(repo name.Repository, mirror bool) {
		if !slices.ContainsFunc(out, func(s *source) bool { return s.repo == repo }) &&
			(repo != registry || !mirror) {
			out = append(out, &source{repo: repo, mirror: mirror})
		}
	}
	for _, m := range r.o.Mirrors {
		if repo, ok := at(r.Reference.Host()+"/"+r.Reference.Repository(), m.Of, m.At); ok {
			add(repo, true)
		}
	}
	for _, repo := range mirrors {
		add(repo, true)
	}
	add(registry, false)
	return out, nil
}
