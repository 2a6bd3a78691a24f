package manifest

import "fmt"

// Tier is an assurance tier: what evidence stands behind a node's identity.
// Larger is stronger. The zero value is no tier at all and satisfies nothing.
type Tier int

// The tiers, weakest first; docs/threat-model.md says what each falls to.
const (
	TierC  Tier = iota + 1 // a one-time token, or a verifier run by the submitter
	TierB2                 // MUNGE and Slurm, vouched for by the cluster's verifier
	TierB1                 // a root agent of the site's SPIRE
	TierA                  // a TPM quote matching a PCR policy
)

var tierNames = map[Tier]string{TierC: "C", TierB2: "B2", TierB1: "B1", TierA: "A"}

// ParseTier reads "A", "B1", "B2" or "C".
func ParseTier(s string) (Tier, error) {
	for t, n := range tierNames {
		if n == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%w: tier %.20q is none of A, B1, B2, C", ErrInvalid, s)
}

// String returns the tier's name, or "none".
func (t Tier) String() string {
	if n, ok := tierNames[t]; ok {
		return n
	}
	return "none"
}

// MarshalText implements encoding.TextMarshaler; a tier that was never set
// does not marshal.
func (t Tier) MarshalText() ([]byte, error) {
	if n, ok := tierNames[t]; ok {
		return []byte(n), nil
	}
	return nil, fmt.Errorf("%w: no tier set", ErrInvalid)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tier) UnmarshalText(b []byte) error {
	v, err := ParseTier(string(b))
	if err == nil {
		*t = v
	}
	return err
}
