package manifest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sealbatch/sealbatch/internal/names"
)

// Format is the value of a job manifest's format field.
const Format = "sealbatch-manifest/1"

// VolumeRef pins one sealed volume that a job opens.
type VolumeRef struct {
	Kind     Kind   `json:"kind"`
	Name     string `json:"name"`              // below /sd-container/encrypted; "image" for the image
	Path     string `json:"path"`              // absolute, on the site
	VolumeID string `json:"volume_id"`         // 32 hex digits
	Digest   Digest `json:"digest"`            // volume digest
	Checksum Digest `json:"checksum,omitzero"` // of the whole file
	Size     int64  `json:"size"`              // of the sealed file, bytes
	Image    *Image `json:"image,omitempty"`
	// HPCS says that a file lies there that HPCS encrypted, and no sealed volume. VolumeID then names what its key is
	// deposited under for this job, Digest is HPCSFile's, and there is no Checksum.
	HPCS *HPCSFile `json:"hpcs,omitempty"`
}

// FileRef pins one file.
type FileRef struct {
	Name   string `json:"name" yaml:"name"` // of verification scripts and what they read: a relative path
	Digest Digest `json:"digest" yaml:"digest"`
	Size   int64  `json:"size" yaml:"size"`
	Exec   bool   `json:"exec,omitempty" yaml:"exec,omitempty"` // it is executable
}

// Service says which key service releases the keys and how it is reached.
type Service struct {
	URL string `json:"url"`
	ID  string `json:"id"`
	// CA is the PEM bundle that alone vouches for URL's certificate.
	CA string `json:"ca"`
	// StatementKey is the service's Ed25519 key, base64url without padding.
	StatementKey string `json:"statement_key"`
}

// Attest names the type of evidence by which the job's nodes prove who they are,
// and what its maker on a node has to know. It is no demand: Manifest.Tier is.
type Attest struct {
	Type       string          `json:"type"`       // lower-case letters, digits and dashes
	Parameters json.RawMessage `json:"parameters"` // a JSON object that the type's maker reads
}

var attestTypeRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// Validate reports the first thing that is wrong with a.
func (a Attest) Validate() error {
	if !attestTypeRE.MatchString(a.Type) {
		return fmt.Errorf("%w: %.40q is not a type of evidence", ErrInvalid, a.Type)
	}
	if err := DecodeJSON(a.Parameters, &map[string]any{}); err != nil {
		return fmt.Errorf("parameters of evidence: %w", err)
	}
	return nil
}

// Manifest pins everything a job does. Its digest is the SHA-256 of the exact
// bytes that the submitter signed.
type Manifest struct {
	Format  string    `json:"format"`
	Run     string    `json:"run"` // 32 hex digits, random: names this submission
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`

	Service Service `json:"service"`
	Attest  Attest  `json:"attest"`
	Cluster string  `json:"cluster"` // whose nodes alone may present the manifest; empty: any
	Tier    Tier    `json:"tier"`    // at least this, or the node does not start

	Volumes       []VolumeRef `json:"volumes"`        // the image, then the inputs
	InputScripts  []FileRef   `json:"input_scripts"`  // of them, what Check says runs, in this order
	OutputScripts []FileRef   `json:"output_scripts"` // the same
	Binaries      []FileRef   `json:"binaries"`       // "sealbatch" and "gocryptfs"

	Private Digest `json:"private"` // of the Private part: arguments and runtime flags
	Runtime string `json:"runtime"` // name or absolute path; empty: first found
	Network string `json:"network"` // NetworkNone if containers get no network; empty: the node's

	User       string   `json:"user"`                // Unix user at the site whose job this is
	JobDir     string   `json:"job_dir"`             // absolute, on the site
	Nodes      int      `json:"nodes"`               // at most
	MinNodes   int      `json:"min_nodes,omitempty"` // at least; 0: as many as Nodes
	Recipients []string `json:"recipients"`          // age recipients of the results
	// SealSeconds is how long before the time limit the application is
	// stopped so that its outputs can be sealed.
	SealSeconds int `json:"seal_seconds"`
}

// NetworkNone, in a policy and a manifest, is a container that has a loopback
// interface of its own and no other.
const NetworkNone = "none"

func validNetwork(s string) error {
	if s != "" && s != NetworkNone {
		return fmt.Errorf("%w: network %.40q is not %s", ErrInvalid, s, NetworkNone)
	}
	return nil
}

// Parse reads a manifest strictly and returns it with the digest of b.
func Parse(b []byte) (Manifest, Digest, error) {
	var m Manifest
	if len(b) > maxDocument {
		return Manifest{}, Digest{}, fmt.Errorf("job manifest: %w: larger than %d bytes", ErrInvalid, maxDocument)
	}
	if err := DecodeJSON(b, &m); err != nil {
		return Manifest{}, Digest{}, fmt.Errorf("job manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, Digest{}, fmt.Errorf("job manifest: %w", err)
	}
	return m, DigestOf(b), nil
}

// Encode validates m and renders the bytes that are signed.
func (m Manifest) Encode() ([]byte, error) {
	m.Format = Format
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("job manifest: %w", err)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	if len(b) > maxDocument {
		return nil, fmt.Errorf("%w: job manifest is larger than %d bytes", ErrInvalid, maxDocument)
	}
	return append(b, '\n'), nil
}

// Inputs returns the volumes that the application reads, in the submitter's order:
// all but the image.
func (m Manifest) Inputs() []VolumeRef { return m.Volumes[min(1, len(m.Volumes)):] }

// Validate reports the first field that is out of its domain.
func (m Manifest) Validate() error {
	for _, validate := range []func() error{
		m.validateHead, m.validateDemands, m.Attest.Validate, m.validateJobDir, m.validateVolumes, m.validateFiles,
	} {
		if err := validate(); err != nil {
			return err
		}
	}
	if err := validNetwork(m.Network); err != nil {
		return err
	}
	return validWords(m.Recipients, []string{m.Runtime})
}

// validateHead checks what the manifest is and who stands behind it.
func (m Manifest) validateHead() error {
	switch {
	case m.Format != Format:
		return fmt.Errorf("%w: format %.40q is not %s", ErrInvalid, m.Format, Format)
	case !names.ID(m.Run):
		return fmt.Errorf("%w: run is not 32 hex digits", ErrInvalid)
	case m.Created.IsZero() || !m.Expires.After(m.Created):
		return fmt.Errorf("%w: expiry does not follow creation", ErrInvalid)
	case m.Service.ID == "" || m.Service.StatementKey == "" || !strings.HasPrefix(m.Service.URL, "https://"):
		return fmt.Errorf("%w: key service is not given by id, key and https URL", ErrInvalid)
	case m.Cluster != "" && !names.Word(m.Cluster):
		return fmt.Errorf("%w: %.80q is not a cluster's name", ErrInvalid, m.Cluster)
	}
	return nil
}

// validateDemands checks what the job asks for.
func (m Manifest) validateDemands() error {
	switch {
	case tierNames[m.Tier] == "":
		return fmt.Errorf("%w: no minimum tier", ErrInvalid)
	case len(m.Recipients) == 0 || len(m.Recipients) > 64:
		return fmt.Errorf("%w: results need 1 to 64 recipients, not %d", ErrInvalid, len(m.Recipients))
	case m.Nodes < 1 || m.Nodes > 65536 || m.MinNodes < 0 || m.MinNodes > m.Nodes:
		return fmt.Errorf("%w: %d nodes", ErrInvalid, m.Nodes)
	case m.SealSeconds < 0 || m.SealSeconds > 86400:
		return fmt.Errorf("%w: seal time of %d s", ErrInvalid, m.SealSeconds)
	case m.Private.IsZero():
		return fmt.Errorf("%w: no private part", ErrInvalid)
	case !names.Unix(m.User):
		return fmt.Errorf("%w: %.80q is not a Unix user", ErrInvalid, m.User)
	case len(m.Volumes) == 0 || m.Volumes[0].Kind != KindImage:
		return fmt.Errorf("%w: the first volume is not the image", ErrInvalid)
	case len(m.Volumes) > 1+64:
		return fmt.Errorf("%w: %d inputs", ErrInvalid, len(m.Inputs()))
	}
	return nil
}

func (m Manifest) validateJobDir() error {
	if err := validPath(m.JobDir); err != nil {
		return fmt.Errorf("job_dir: %w", err)
	}
	return nil
}

func (m Manifest) validateVolumes() error {
	for _, v := range m.Volumes {
		if err := validName(v.Name); err != nil {
			return fmt.Errorf("volume name: %w", err)
		}
		if err := validPath(v.Path); err != nil {
			return fmt.Errorf("volume path: %w", err)
		}
		if !names.ID(v.VolumeID) || v.Digest.IsZero() || v.Checksum.IsZero() != (v.HPCS != nil) || v.Size <= 0 {
			return fmt.Errorf("%w: volume %q lacks id, digest, checksum or size", ErrInvalid, v.Name)
		}
		if err := validHPCS(v); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
		if err := validImage(v.Kind, v.Image); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	seen := map[string]bool{}
	for _, v := range m.Inputs() {
		if v.Kind != KindDataset && v.Kind != KindResults {
			return fmt.Errorf("%w: input %q is of kind %.40q", ErrInvalid, v.Name, v.Kind)
		}
		if seen[v.Name] {
			return fmt.Errorf("%w: two inputs are named %q", ErrInvalid, v.Name)
		}
		seen[v.Name] = true
	}
	return nil
}

func (m Manifest) validateFiles() error {
	for _, f := range m.Binaries {
		if err := validName(f.Name); err != nil {
			return err
		}
	}
	for _, list := range [][]FileRef{m.InputScripts, m.OutputScripts, m.Binaries} {
		if err := validScripts(list); err != nil {
			return err
		}
	}
	return nil
}

// validWords refuses what a container runtime would alter on the way
// (Apptainer turns invalid UTF-8 into U+FFFD) or cannot carry.
func validWords(lists ...[]string) error {
	for _, list := range lists {
		for _, s := range list {
			if damaged(s) || strings.ContainsRune(s, 0) {
				return fmt.Errorf("%w: argument %.80q is not valid UTF-8 text, or holds U+FFFD, the mark of damaged text", ErrInvalid, s)
			}
		}
	}
	return nil
}
