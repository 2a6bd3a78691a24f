package manifest

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/text"
)

// ImageDigestOf says what an image's digest is a digest of.
type ImageDigestOf string

// The things that identify an image.
const (
	OfManifest ImageDigestOf = "manifest" // as registries and OCI layouts know it
	OfConfig   ImageDigestOf = "config"   // the image id of Docker: an archive of docker save has no manifest
	OfFile     ImageDigestOf = "file"     // a SIF file
)

// Image says of which container image an image's volume was made, by the word of
// whoever sealed it.
type Image struct {
	// Reference is where it came from, such as "docker.io/talinx/jp2a:latest".
	Reference string `json:"reference" yaml:"reference"`
	// Digest identifies the image, by the bytes of what Of says.
	Digest Digest        `json:"digest" yaml:"digest"`
	Of     ImageDigestOf `json:"digest_of" yaml:"digest_of"`
	// Platform is operating system, architecture and, where it has one, variant: "linux/arm64/v8".
	Platform string `json:"platform" yaml:"platform"`
	// Base is the image on which it was built, if it says so (OCI annotations org.opencontainers.image.base.*).
	Base *BaseImage `json:"base,omitempty" yaml:"base,omitempty"`
	// SignedBy is the SHA-256 of the public key (DER, PKIX) by which a signature over Digest was checked
	// before sealing; zero if none was asked for.
	SignedBy Digest `json:"signed_by,omitzero" yaml:"signed_by,omitempty"`
	// Prepared is PreparedHPCS for an image that HPCS's container-prep has made; "" for any other.
	Prepared string `json:"prepared,omitempty" yaml:"prepared,omitempty"`
	// SBOM is the bill of materials that lies beside the image in its volume.
	SBOM *FileRef `json:"sbom,omitempty" yaml:"sbom,omitempty"`
}

// PreparedHPCS is said of an image whose entry point is HPCS's: a shell command that runs HPCS's input scripts, then the
// application with its output and exit code in files, then HPCS's output scripts. HPCS hands it "--" before the
// application's arguments, for the shell to take for its own name.
const PreparedHPCS = "hpcs"

// BaseImage names an image by reference and digest, as another image's annotations do. Either may be missing.
type BaseImage struct {
	Reference string `json:"reference,omitempty" yaml:"reference,omitempty"`
	Digest    string `json:"digest,omitempty" yaml:"digest,omitempty"`
}

// String says for people which image it is, and what is known of it.
func (i Image) String() string {
	s := fmt.Sprintf("%s (%s, %s", i.Reference, i.Digest, i.Platform)
	if !i.SignedBy.IsZero() {
		s += ", signed by the key " + i.SignedBy.String()
	}
	if i.SBOM != nil {
		s += fmt.Sprintf(", with %s %s", i.SBOM.Name, i.SBOM.Digest)
	}
	return s + ")"
}

// maxReference bounds a reference, in bytes: registries allow 255 for a name, paths are longer.
const maxReference = 4096

var platformRE = regexp.MustCompile(`^[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[A-Za-z0-9._-]{1,32})?$`)

// Validate reports the first thing that is wrong with i.
func (i Image) Validate() error {
	switch {
	case i.Reference == "" || !printable(i.Reference):
		return fmt.Errorf("%w: image reference %.80q is not printable text", ErrInvalid, i.Reference)
	case i.Digest.IsZero():
		return fmt.Errorf("%w: image has no digest", ErrInvalid)
	case i.Of != OfManifest && i.Of != OfConfig && i.Of != OfFile:
		return fmt.Errorf("%w: image digest of %.40q", ErrInvalid, i.Of)
	case !platformRE.MatchString(i.Platform):
		return fmt.Errorf("%w: image platform %.80q is not OS/ARCHITECTURE", ErrInvalid, i.Platform)
	case i.Base != nil && !(printable(i.Base.Reference) && printable(i.Base.Digest)):
		return fmt.Errorf("%w: base image %.80q is not printable text", ErrInvalid, i.Base.Reference)
	case i.Prepared != "" && i.Prepared != PreparedHPCS:
		return fmt.Errorf("%w: image prepared by %.40q", ErrInvalid, i.Prepared)
	case i.SBOM != nil && (validName(i.SBOM.Name) != nil || i.SBOM.Digest.IsZero() || i.SBOM.Size <= 0):
		return fmt.Errorf("%w: bill of materials lacks name, digest or size", ErrInvalid)
	}
	return nil
}

// validImage checks what is said of the image in a volume of a kind: of no other is anything said.
func validImage(k Kind, i *Image) error {
	switch {
	case i == nil:
		return nil
	case k != KindImage:
		return fmt.Errorf("%w: a volume of kind %.40q names an image", ErrInvalid, k)
	}
	return i.Validate()
}

func printable(s string) bool {
	return len(s) <= maxReference && !damaged(s) && !strings.ContainsFunc(s, text.Steers)
}

// ValidImagePin reports whether s can stand in a policy's Images: the digest of an image
// ("sha256:...") or the id of a sealed one (32 hex digits).
func ValidImagePin(s string) bool {
	d, err := ParseDigest(s)
	return err == nil && !d.IsZero() || names.ID(s)
}
