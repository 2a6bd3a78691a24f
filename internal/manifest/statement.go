package manifest

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// JWS types ("typ" header, RFC 7515 section 4.1.9), one for each purpose so
// that no signed document passes for another.
const (
	TypeStatement = "sealbatch-statement+json"
	TypeOrigin    = "sealbatch-origin+json"
	TypeReceipt   = "sealbatch-receipt+json"
	TypeVoucher   = "sealbatch-voucher+json"
	TypeAuditHead = "sealbatch-audit-head+json"
)

// Job names one run of one Slurm job on a cluster.
type Job struct {
	Cluster   string `json:"cluster"`
	ID        uint32 `json:"id"`
	ArrayTask int64  `json:"array_task"` // -1 outside arrays
	Restart   uint32 `json:"restart"`
}

// Statement is the key service's word that signing key S belongs to a process
// which gave evidence of tier Tier for this job on this node.
type Statement struct {
	Service  string    `json:"service"`
	Manifest Digest    `json:"manifest"`
	Job      Job       `json:"job"`
	Node     string    `json:"node"`
	UID      int64     `json:"uid"` // -1 where the evidence shows none
	User     string    `json:"user"`
	Tier     Tier      `json:"tier"`
	Attestor string    `json:"attestor"`
	S        string    `json:"s"` // Ed25519 public key, base64url
	Issued   time.Time `json:"issued"`
}

// Origin is written before an output volume's first byte: these wrapped keys
// and this cipher directory are the job's own.
type Origin struct {
	Run      string    `json:"run"`
	Manifest Digest    `json:"manifest"`
	Job      Job       `json:"job"`
	Node     string    `json:"node"`
	VolumeID string    `json:"volume_id"` // of the output volume
	Keys     Digest    `json:"keys"`      // of the keys.age beside the cipher directory
	Created  time.Time `json:"created"`
}

// Output says where a node's results are and what vouches for them.
type Output struct {
	// Sealed is true for a sealed volume, checked by Digest; false for a
	// cipher directory, for whose tree Index vouches, or nothing does.
	Sealed   bool   `json:"sealed"`
	File     string `json:"file"` // below the node's directory
	VolumeID string `json:"volume_id"`
	Digest   Digest `json:"digest,omitzero"`
	Checksum Digest `json:"checksum,omitzero"`
	Size     int64  `json:"size,omitempty"`
	// Until says where the outputs lay before they were sealed: scratch,
	// node-local or memory. Until then they could have been rolled back.
	Until string `json:"until"`
	Index *Index `json:"index,omitempty"`
	// MountLost says that the mount through which the application wrote ended
	// before the application did: what it wrote last may be missing.
	MountLost bool `json:"mount_lost,omitempty"`
	// Left says what of the outputs is neither in the sealed volume nor in the
	// index, or not as a whole there; nil if everything is.
	Left *Left `json:"left,omitempty"`
}

// Left is what of a node's outputs could not be kept.
type Left struct {
	Entries int `json:"entries"`
	// Special entries, which are counted in Entries, are sockets, pipes and
	// devices: they hold nothing, and nothing is lost with them.
	Special int `json:"special,omitempty"`
	// Names is the digest of the file that names them, encrypted to the recipients
	// (jobdir.LeftName); zero if that could not be written.
	Names Digest `json:"names,omitzero"`
}

// Index is a sealed index over a cipher directory (volume.OpenIndexed).
type Index struct {
	File   string `json:"file"` // below the node's directory
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
	Files  int    `json:"files"`
	// Unread files are known by id and size only: whoever can write the storage
	// can put older versions of them back unnoticed.
	Unread int `json:"unread,omitempty"`
	// Torn entries were not whole when they were indexed.
	Torn int `json:"torn,omitempty"`
}

// Step is one thing the supervisor did, with the time it took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Exit    int     `json:"exit"`
}

// Receipt is the node's signed account of a run. It proves that a process
// meeting the statement's tier asserted this, not that it is so.
type Receipt struct {
	Run      string    `json:"run"`
	Manifest Digest    `json:"manifest"`
	Job      Job       `json:"job"`
	Node     string    `json:"node"`
	Tier     Tier      `json:"tier"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Exit     int       `json:"exit"`            // the application's, 128+signal, or -1 when it never ran
	Reason   string    `json:"reason"`          // "completed", "time limit", "cancelled", or the failed step
	Version  string    `json:"version"`         // of the sealbatch that signs this
	Mounts   string    `json:"mounts"`          // how the volumes reached the container: "namespace", "fusermount" or "runtime"
	Image    *Image    `json:"image,omitempty"` // as the manifest has it
	Steps    []Step    `json:"steps"`
	Output   Output    `json:"output"`
}

// SignJWS renders v as JSON in a compact JWS of type typ under an Ed25519 key
// (RFC 8037, "EdDSA").
func SignJWS(typ string, key ed25519.PrivateKey, v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, opts)
	if err != nil {
		return "", fmt.Errorf("signer for %s: %w", typ, err)
	}
	o, err := s.Sign(b)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	return o.CompactSerialize()
}

// VerifyJWS checks that s is a compact JWS of type typ by pub and decodes its
// payload strictly into v.
func VerifyJWS(typ string, pub ed25519.PublicKey, s string, v any) error {
	if len(s) > maxDocument {
		return fmt.Errorf("%w: %s larger than %d bytes", ErrInvalid, typ, maxDocument)
	}
	if err := oneSpelling(s); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, typ, err)
	}
	o, err := jose.ParseSignedCompact(s, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrInvalid, typ, err)
	}
	b, err := o.Verify(pub)
	if err != nil {
		return fmt.Errorf("%w: %s is not signed by the expected key", ErrSignature, typ)
	}
	if got, _ := o.Signatures[0].Protected.ExtraHeaders[jose.HeaderType].(string); got != typ {
		return fmt.Errorf("%w: a %.60q where a %s is expected", ErrSignature, got, typ)
	}
	return DecodeJSON(b, v)
}

// oneSpelling refuses what the JWS library's base64 decoder skips or ignores, line
// ends and bits after the last byte: one document has one spelling.
func oneSpelling(jws string) error {
	if strings.ContainsAny(jws, "\r\n") {
		return errors.New("holds line ends")
	}
	for part := range strings.SplitSeq(jws, ".") {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return errors.New("holds a part that is not base64url")
		}
	}
	return nil
}

// ErrSignature says that a document is not signed, not by whom it should be,
// or for another purpose.
var ErrSignature = fault.Sentinel(fault.Integrity, "signature does not hold")

// EncodeKey and DecodeKey carry Ed25519 public keys as base64url text.
func EncodeKey(k ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(k) }

// DecodeKey reads what EncodeKey wrote.
func DecodeKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize || EncodeKey(b) != s {
		return nil, fmt.Errorf("%w: not an Ed25519 public key", ErrInvalid)
	}
	return b, nil
}
