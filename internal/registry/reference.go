package registry

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ErrReference says that something is not the name of an image in a registry.
var ErrReference = fault.Sentinel(fault.Usage, "not the name of an image in a registry")

// hub is what people call the registry that the protocol reaches as name.DefaultRegistry.
const hub = "docker.io"

// Reference names an image in a registry: by tag, by digest, or by both, of which
// the digest counts.
type Reference struct {
	repo        name.Repository
	tag, digest string // "sha256:..."; not both are empty
}

// ParseReference reads what people write: [docker://][HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST].
// The host is docker.io where none is given, the tag latest.
func ParseReference(s string) (Reference, error) {
	s = strings.TrimPrefix(s, "docker://")
	if transport, _, ok := strings.Cut(s, "://"); ok {
		return Reference{}, refuse(s, transport+":// is no registry's",
			"a name of a registry's is HOST/REPOSITORY:TAG, with docker:// before it or without")
	}
	base, digest, pinned := strings.Cut(s, "@")
	tagged, err := name.NewTag(base)
	if err == nil && loopback(tagged.RegistryStr()) {
		tagged, err = name.NewTag(base, name.Insecure) // http where it does not speak https
	}
	if err != nil {
		return Reference{}, refuse(s, why(err), nameHint)
	}
	if !names.MatchString(tagged.RepositoryStr()) {
		return Reference{}, refuse(s, "its repository is no name", nameHint)
	}
	repo := tagged.Registry.Repo(tagged.RepositoryStr()) // with library/, where it goes without saying
	r := Reference{repo: repo, tag: tagged.TagStr()}
	if !pinned {
		return r, nil
	}
	if !strings.HasSuffix(base, ":"+r.tag) {
		r.tag = "" // latest was nobody's word
	}
	if r.digest = digest; !isDigest(digest) {
		return Reference{}, refuse(s, "what follows the @ is no digest",
			"a digest is sha256: and 64 digits of 0-9 and a-f")
	}
	return r, nil
}

const nameHint = "it is [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST], in lower case: docker.io/library/debian:13"

// names are a repository's (distribution-spec, "Pulling manifests"): the library looks at the
// characters only, and takes "a/../b".
var names = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// isDigest reports whether s is "sha256:" and 64 hexadecimal digits.
func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// why returns what a library's error says of a name, without the name.
func why(err error) string {
	var bad *name.ErrBadName
	if s := err.Error(); errors.As(err, &bad) {
		before, _, _ := strings.Cut(s, ": ")
		return before
	}
	return err.Error()
}

func refuse(s, why, hint string) error {
	return fault.New(fault.Usage, fmt.Errorf("%.300s: %w: %s", text.Printable(s), ErrReference,
		text.Printable(why)), hint)
}

// loopback reports whether host, which may have a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// hostOf is what people call a repository's registry.
func hostOf(r name.Repository) string {
	if r.RegistryStr() == name.DefaultRegistry {
		return hub
	}
	return r.RegistryStr()
}

// Host returns the registry's name, with its port if one was given: "docker.io".
func (r Reference) Host() string { return hostOf(r.repo) }

// Repository returns the repository's name within the registry: "library/debian".
func (r Reference) Repository() string { return r.repo.RepositoryStr() }

// Digest returns the digest that the reference names; "" if it names a tag only.
func (r Reference) Digest() string { return r.digest }

// String returns the reference in full: "docker.io/library/debian:13".
func (r Reference) String() string {
	s := r.Host() + "/" + r.Repository()
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest
	}
	return s
}

// identifier is what the registry is asked for.
func (r Reference) identifier() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}
