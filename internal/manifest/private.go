package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
)

// PrivateFormat is the value of a private part's format field.
const PrivateFormat = "sealbatch-private/1"

// Private is what a job's manifest says only by digest, since the manifest lies
// on the site's storage: the application's arguments, which can name what is
// in the data, and the runtime's flags, which can hold values for the
// environment. The submitter registers it with the key service, which hands it
// to the attested node together with the keys.
type Private struct {
	Format string   `json:"format"`
	Salt   string   `json:"salt"`  // 64 hex digits, random: a short command line cannot be guessed from the digest
	Args   []string `json:"args"`  // the application's, valid UTF-8
	Flags  []string `json:"flags"` // the runtime's, as the user gave them
}

var saltRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// NewPrivate returns a private part with a salt of its own.
func NewPrivate(args, flags []string) Private {
	salt := make([]byte, 32)
	rand.Read(salt) // never fails (crypto/rand)
	return Private{Format: PrivateFormat, Salt: hex.EncodeToString(salt), Args: append([]string{}, args...),
		Flags: append([]string{}, flags...)}
}

// ParsePrivate reads a private part strictly; its digest is DigestOf(b).
func ParsePrivate(b []byte) (Private, error) {
	var p Private
	if err := DecodeJSON(b, &p); err != nil {
		return Private{}, fmt.Errorf("private part of the job: %w", err)
	}
	return p, p.Validate()
}

// Encode validates p and renders it.
func (p Private) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(p)
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%w: arguments are longer than %d bytes", ErrInvalid, maxDocument)
	}
	return b, err
}

// Validate reports the first thing that is wrong with p.
func (p Private) Validate() error {
	if p.Format != PrivateFormat || !saltRE.MatchString(p.Salt) {
		return fmt.Errorf("%w: private part of the job has no format or salt", ErrInvalid)
	}
	if err := validWords(p.Args, p.Flags); err != nil {
		return err
	}
	_, err := ParseFlags(p.Flags)
	return err
}
