package keyapi

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealbatch/sealbatch/internal/manifest"
)

// The types of evidence that this vocabulary has payloads for.
const (
	EvidenceSlurm = "slurm"
	EvidenceToken = "token"
)

// Evidence is a release's proof. Its payload, a JSON object, is read by nobody
// but the two ends of its type: the maker on the node and the key service's
// attestor.
type Evidence struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
}

// SlurmPayload is the payload of EvidenceSlurm.
type SlurmPayload struct {
	Voucher string `json:"voucher"` // JWS by the verifier, payload Voucher
}

// TokenPayload is the payload of EvidenceToken.
type TokenPayload struct {
	Proof string `json:"proof"` // made by TokenKeys.Prove
}

// ErrPayload says that evidence is not of the type that is read, or that its
// payload is not what the type wants.
var ErrPayload = errors.New("not the expected evidence")

// NewEvidence returns evidence of a type with a payload that is rendered as JSON.
func NewEvidence(typ string, payload any) (Evidence, error) {
	b, err := json.Marshal(payload)
	if err != nil {
		return Evidence{}, fmt.Errorf("evidence of type %s: %w", typ, err)
	}
	return Evidence{Type: typ, Payload: b}, nil
}

// Decode reads the payload of evidence of type typ strictly. Errors wrap ErrPayload.
func (e Evidence) Decode(typ string, payload any) error {
	if e.Type != typ {
		return fmt.Errorf("%w: it is of type %.40q, not %q", ErrPayload, e.Type, typ)
	}
	if err := manifest.DecodeJSON(e.Payload, payload); err != nil {
		return fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return nil
}
