package registry

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Mirror says where the images of a registry are to be had, too.
type Mirror struct {
	Of string // what is mirrored, a host or a prefix of names: "docker.io", "quay.io/biocontainers"
	At string // where: HOST[:PORT][/PREFIX]
}

// of returns where the mirror has the repository of r, if it mirrors it.
func (m Mirror) of(r Reference) (name.Repository, bool) {
	full := r.Host() + "/" + r.Repository()
	rest, ok := strings.CutPrefix(full, m.Of)
	if !ok || (rest != "" && rest[0] != '/') {
		return name.Repository{}, false
	}
	at := m.At + rest
	repo, err := name.NewRepository(at)
	if err == nil && loopback(repo.RegistryStr()) {
		repo, err = name.NewRepository(at, name.Insecure)
	}
	return repo, err == nil
}
