package keyapi

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/names"
)

// ErrInvalid is wrapped by every refusal of a claim that is out of its domain.
var ErrInvalid = errors.New("invalid claim")

// PublicKeyE is the size of a claim's E in bytes: an ML-KEM-768 encapsulation
// key (1184, FIPS 203) and an X25519 public key (32).
const PublicKeyE = 1184 + 32

// Validate reports the first field that is out of its domain. A claim is
// always a Slurm job's, so its number is never 0; Node is one host name.
func (c Claim) Validate() error {
	switch {
	case c.Manifest.IsZero():
		return fmt.Errorf("%w: no manifest", ErrInvalid)
	case !names.Word(c.Job.Cluster):
		return fmt.Errorf("%w: %.80q is not a cluster's name", ErrInvalid, c.Job.Cluster)
	case !names.Node(c.Node):
		return fmt.Errorf("%w: %.80q is not a node's name", ErrInvalid, c.Node)
	case c.Job.ID == 0:
		return fmt.Errorf("%w: no job id", ErrInvalid)
	case c.Job.ArrayTask < -1:
		return fmt.Errorf("%w: array task %d", ErrInvalid, c.Job.ArrayTask)
	case len(c.Nonce) != NonceSize:
		return fmt.Errorf("%w: nonce of %d bytes", ErrInvalid, len(c.Nonce))
	case len(c.E) != PublicKeyE:
		return fmt.Errorf("%w: E of %d bytes, not %d", ErrInvalid, len(c.E), PublicKeyE)
	case len(c.S) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: S of %d bytes, not %d", ErrInvalid, len(c.S), ed25519.PublicKeySize)
	}
	return nil
}

// ServiceID is the id of a service with that statement key: its name and the
// first 128 bits of the key's SHA-256. Whoever has the id can tell the
// service's statement key from any other (ServiceKeyMatches).
func ServiceID(name string, statementKey ed25519.PublicKey) string {
	h := sha256.Sum256(append([]byte("sealbatch-service v1\x00"), statementKey...))
	return name + "#" + hex.EncodeToString(h[:16])
}

// ServiceKeyMatches reports whether key is the statement key of service id.
func ServiceKeyMatches(id string, key ed25519.PublicKey) bool {
	name, _, ok := strings.Cut(id, "#")
	return ok && len(key) == ed25519.PublicKeySize && ServiceID(name, key) == id
}
