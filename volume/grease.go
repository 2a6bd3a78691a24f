package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"slices"

	"filippo.io/age"
)

// grease is a recipient that is nobody: a stanza which every age program passes
// over, its type being reserved for that (age-encryption.org/v1, "grease"). It
// makes keys.age larger than it has to be, and its argument is a checksum of what
// comes before it: without that, a damaged stanza looks like one for somebody
// else. The checksum is against accidents only; age authenticates the header.
//
// It comes last, and has the labels of the first: age refuses recipients of
// which some would weaken the others, which a stanza of zeros does not.
type grease struct {
	bytes  int // of zeros
	before []*recorded
}

const greaseType = "room-grease"

// Wrap implements age.Recipient.
func (g grease) Wrap([]byte) ([]*age.Stanza, error) {
	header := []byte(ageIntro)
	for _, r := range g.before {
		for _, s := range r.stanzas {
			header = appendStanza(header, s)
		}
	}
	return []*age.Stanza{{Type: greaseType, Args: []string{headerSum(header)}, Body: make([]byte, g.bytes)}}, nil
}

// WrapWithLabels implements age.RecipientWithLabels.
func (g grease) WrapWithLabels(key []byte) ([]*age.Stanza, []string, error) {
	s, err := g.Wrap(key)
	return s, g.before[0].labels, err
}

// recorded remembers a recipient's stanzas and labels.
type recorded struct {
	age.Recipient
	stanzas []*age.Stanza
	labels  []string
}

// WrapWithLabels implements age.RecipientWithLabels.
func (r *recorded) WrapWithLabels(key []byte) (s []*age.Stanza, _ []string, err error) {
	if to, ok := r.Recipient.(age.RecipientWithLabels); ok {
		r.stanzas, r.labels, err = to.WrapWithLabels(key)
	} else {
		r.stanzas, err = r.Wrap(key)
	}
	return r.stanzas, r.labels, err
}

// greased returns the recipients with one of grease behind them.
func greased(rcpts []age.Recipient, zeros int) (all []age.Recipient) {
	g := grease{bytes: zeros}
	for _, r := range rcpts {
		g.before = append(g.before, &recorded{Recipient: r})
		all = append(all, g.before[len(g.before)-1])
	}
	return append(all, g)
}

// greaseLength returns how much longer than without zeros a stanza with some is.
func greaseLength(zeros int) int {
	stanza := func(n int) int { return len(appendStanza(nil, &age.Stanza{Type: greaseType, Body: make([]byte, n)})) }
	return stanza(zeros) - stanza(0)
}

// How an age file begins, and how its stanzas are written (age-encryption.org/v1): a line for type and arguments, and
// the body in base64 in lines of 64 characters, the last of which is shorter.
const (
	ageIntro  = "age-encryption.org/v1\n"
	ageColumn = 64
)

func appendStanza(b []byte, s *age.Stanza) []byte {
	b = append(b, "-> "+s.Type...)
	for _, a := range s.Args {
		b = append(append(b, ' '), a...)
	}
	body := base64.RawStdEncoding.AppendEncode(nil, s.Body)
	for line := range slices.Chunk(body, ageColumn) {
		b = append(append(b, '\n'), line...)
	}
	if len(body)%ageColumn == 0 {
		b = append(b, '\n')
	}
	return append(b, '\n')
}

// headerSum returns the checksum of the beginning of an age file.
func headerSum(header []byte) string {
	sum := sha256.Sum256(header)
	return base64.RawStdEncoding.EncodeToString(sum[:])
}

// headerDamaged reports whether the checksum in an age file's header says that what comes before it was altered. A file
// without checksum (of an earlier version, or not of sealbatch's) is not known to be.
func headerDamaged(file []byte) bool {
	before, after, _ := bytes.Cut(file, []byte("\n-> "+greaseType+" "))
	sum, _, found := bytes.Cut(after, []byte("\n"))
	return found && headerSum(append(slices.Clip(before), '\n')) != string(sum)
}
