package manifest

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealbatch/sealbatch/internal/names"
	"github.com/sealbatch/sealbatch/internal/text"
)

// InfoFormat is the value of an info file's format field.
const InfoFormat = "sealbatch-info/1"

// Kind says what a sealed volume holds.
type Kind string

// The kinds of volumes.
const (
	KindDataset Kind = "dataset"
	KindImage   Kind = "image"   // ImageFile, and perhaps a bill of materials
	KindResults Kind = "results" // what a job sealed; an input of the next one
)

// ImageFile is what is run of an image's volume.
const ImageFile = "image.sif"

// Info is what an info file (NAME.info.yaml) says of a sealed volume. The
// first five fields are HPCS's; their YAML names are kept.
type Info struct {
	PathAtRest string `yaml:"path_at_rest"` // absolute, on the site
	SecretPath string `yaml:"secret_path"`  // where the key service keeps the key
	AccessRole string `yaml:"access_role"`  // Vault role; empty with the embedded store
	Checksum   string `yaml:"checksum"`     // sha256 over the sha256s of 64 MiB segments
	SpiffeID   string `yaml:"spiffeID"`     // empty without SPIRE

	Format   string    `yaml:"format"`
	Kind     Kind      `yaml:"kind"`
	Name     string    `yaml:"name"` // the directory below /sd-container/encrypted
	VolumeID string    `yaml:"volume_id"`
	Digest   Digest    `yaml:"volume_digest"`
	Size     int64     `yaml:"size"` // of the sealed file, bytes
	Service  string    `yaml:"key_service"`
	Created  time.Time `yaml:"created"`
	Policy   Policy    `yaml:"policy"`
	Image    *Image    `yaml:"image,omitempty"` // of KindImage alone
}

// KeptPath returns where a volume lies, beside the newer version that got its place
// path, if its owner pinned it.
func KeptPath(path, volumeID string) string { return path + "." + volumeID[:min(12, len(volumeID))] }

type infoFile struct {
	Info Info `yaml:"info"`
}

// ParseInfo reads an info file. An info file written by HPCS, which has no
// format field, is refused with ErrHPCSInfo.
func ParseInfo(b []byte) (Info, error) {
	if len(b) > maxDocument {
		return Info{}, fmt.Errorf("%w: info file is larger than %d bytes", ErrInvalid, maxDocument)
	}
	var f infoFile
	if err := decodeYAML(b, &f); err != nil {
		return Info{}, fmt.Errorf("info file: %w", err)
	}
	if f.Info.Format == "" && f.Info.SecretPath != "" {
		return Info{}, ErrHPCSInfo
	}
	return f.Info, f.Info.Validate()
}

// ErrHPCSInfo says that an info file was written by HPCS: its volume is a
// plain age file without a signed digest, and cannot be trusted as it is.
var ErrHPCSInfo = errors.New("info file was written by HPCS, not by sealbatch")

// Validate reports the first field that is out of its domain.
func (i Info) Validate() error {
	switch {
	case i.Format != InfoFormat:
		return fmt.Errorf("%w: info file format %.40q is not %s", ErrInvalid, i.Format, InfoFormat)
	case i.Kind != KindDataset && i.Kind != KindImage:
		return fmt.Errorf("%w: info file kind %.40q is neither dataset nor image", ErrInvalid, i.Kind)
	case !names.ID(i.VolumeID):
		return fmt.Errorf("%w: info file volume_id is not 32 hex digits", ErrInvalid)
	case i.Digest.IsZero():
		return fmt.Errorf("%w: info file has no volume_digest", ErrInvalid)
	case i.Size <= 0:
		return fmt.Errorf("%w: info file size %d is not positive", ErrInvalid, i.Size)
	}
	if sum, err := ParseDigest(i.Checksum); err != nil || sum.IsZero() {
		return fmt.Errorf("%w: info file checksum %.80q is not a digest", ErrInvalid, i.Checksum)
	}
	if err := validImage(i.Kind, i.Image); err != nil {
		return fmt.Errorf("info file: %w", err)
	}
	if err := validName(i.Name); err != nil {
		return fmt.Errorf("info file name: %w", err)
	}
	if err := validPath(i.PathAtRest); err != nil {
		return fmt.Errorf("info file path_at_rest: %w", err)
	}
	return i.Policy.Validate()
}

// Encode validates i and renders the file.
func (i Info) Encode() ([]byte, error) {
	i.Format = InfoFormat
	if err := i.Validate(); err != nil {
		return nil, err
	}
	return yaml.Marshal(infoFile{i})
}

// validName accepts one path component that is safe as a directory name
// below /sd-container and in a runtime's bind specification.
func validName(s string) error {
	if s == "" || s == "." || s == ".." || len(s) > 255 || damaged(s) ||
		strings.Contains(s, "/") || strings.ContainsFunc(s, text.Steers) {
		return fmt.Errorf("%w: %.80q is not a file name", ErrInvalid, s)
	}
	return nil
}

// validPath accepts a clean absolute path without what could steer the terminal that
// shows it.
func validPath(s string) error {
	if !path.IsAbs(s) || path.Clean(s) != s || len(s) > 4096 || damaged(s) ||
		strings.ContainsFunc(s, text.Steers) {
		return fmt.Errorf("%w: %.80q is not a clean absolute path of printable characters", ErrInvalid, s)
	}
	return nil
}
