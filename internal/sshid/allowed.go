package sshid

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/sshconfig"
	"github.com/sealbatch/sealbatch/internal/sshkey"
)

// AllowedSigner is one line of an allowed_signers file (ssh-keygen(1),
// ALLOWED SIGNERS).
type AllowedSigner struct {
	// Principals are names or patterns (ssh_config(5), PATTERNS).
	Principals []string
	// Namespaces are patterns; none means every namespace.
	Namespaces []string
	// CertAuthority marks a key whose certificates, not itself, are accepted.
	CertAuthority bool
	// ValidAfter and ValidBefore bound the key's life, both inclusive; zero
	// is unbounded.
	ValidAfter, ValidBefore time.Time
	Key                     ssh.PublicKey
	Line                    int // its number in the file, from 1
}

// Allows reports whether the line admits signatures in namespace at time at.
func (a AllowedSigner) Allows(namespace string, at time.Time) bool {
	return (len(a.Namespaces) == 0 || sshconfig.MatchList(a.Namespaces, namespace)) &&
		(a.ValidAfter.IsZero() || !at.Before(a.ValidAfter)) &&
		(a.ValidBefore.IsZero() || !at.After(a.ValidBefore))
}

// Matches reports whether principal is among the line's principals.
func (a AllowedSigner) Matches(principal string) bool {
	return sshconfig.MatchList(a.Principals, principal)
}

// Bounds of an allowed_signers file.
const (
	maxAllowedSigners = 4 << 20 // bytes
	maxPatterns       = 256     // of principals or namespaces on a line
	maxBadLines       = 10      // that an error names
)

// ParseAllowedSigners reads an allowed_signers file of at most 4 MiB. Lines that
// ssh-keygen would not accept make it an error, which names the numbers of the first
// ten; the lines that it would accept are returned all the same, for callers that
// must go on. Times without a Z are in the local time zone.
func ParseAllowedSigners(r io.Reader) ([]AllowedSigner, error) {
	b, err := fsx.ReadAll(r, maxAllowedSigners)
	if err != nil {
		return nil, fmt.Errorf("read allowed signers: %w", err)
	}
	if b, err = sshkey.Text(b); err != nil {
		return nil, fmt.Errorf("allowed signers: %w", err)
	}
	var out []AllowedSigner
	var bad []error
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.Trim(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		a, err := parseSignerLine(line)
		switch {
		case err == nil:
			a.Line = n
			out = append(out, a)
		case len(bad) < maxBadLines:
			bad = append(bad, fmt.Errorf("allowed signers, line %d: %w", n, err))
		}
	}
	return out, errors.Join(bad...)
}

func parseSignerLine(line string) (AllowedSigner, error) {
	var a AllowedSigner
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return a, errors.New("holds control characters or invalid UTF-8")
	}
	names, rest, err := cutField(line)
	if err != nil {
		return a, err
	}
	// ssh-keygen takes the whole field in double quotes, too.
	if len(names) >= 2 && names[0] == '"' && names[len(names)-1] == '"' {
		names = names[1 : len(names)-1]
	}
	if a.Principals, err = splitPatterns("principals", names); err != nil {
		return a, err
	}
	if a.Key, err = parseKeyFields(rest); err == nil {
		return a, nil
	}
	opts, rest, fieldErr := cutField(rest)
	if fieldErr != nil {
		return a, fieldErr
	}
	if isKeyType(opts) {
		return a, err // no options: the key itself is what is wrong
	}
	if err := a.parseOptions(opts); err != nil {
		return a, err
	}
	a.Key, err = parseKeyFields(rest)
	return a, err
}

// cutField cuts s at the first blank outside double quotes, in which \"
// stands for a quote.
func cutField(s string) (field, rest string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			quoted = !quoted
		case (s[i] == ' ' || s[i] == '\t') && !quoted:
			return s[:i], strings.TrimLeft(s[i:], " \t"), nil
		}
	}
	if quoted {
		return "", "", errors.New("a double quote is never closed")
	}
	return s, "", nil
}

// parseOptions reads the comma-separated option field. Keywords are
// case-insensitive; an unknown or repeated one is an error.
func (a *AllowedSigner) parseOptions(s string) error {
	seen := map[string]bool{}
	for more := true; more; {
		i := strings.IndexAny(s, ",=")
		key, value, sep := strings.ToLower(s), "", byte(0)
		if i >= 0 {
			key, sep, s = strings.ToLower(s[:i]), s[i], s[i+1:]
		}
		more = sep == ','
		if seen[key] {
			return fmt.Errorf("option %.40q is given twice", key)
		}
		seen[key] = true
		if sep == '=' {
			var err error
			if value, s, err = cutQuoted(s); err != nil {
				return fmt.Errorf("option %.40q: %w", key, err)
			}
			if s != "" && s[0] != ',' {
				return fmt.Errorf("option %.40q: text follows its value", key)
			}
			more = s != ""
			s = strings.TrimPrefix(s, ",")
		}
		if err := a.setOption(key, value, sep == '='); err != nil {
			return err
		}
	}
	return nil
}

func (a *AllowedSigner) setOption(key, value string, hasValue bool) (err error) {
	switch {
	case key == "cert-authority" && !hasValue:
		a.CertAuthority = true
	case key == "namespaces" && hasValue:
		a.Namespaces, err = splitPatterns("namespaces", value)
	case key == "valid-after" && hasValue:
		a.ValidAfter, err = parseSignerTime(value)
	case key == "valid-before" && hasValue:
		a.ValidBefore, err = parseSignerTime(value)
	default:
		return fmt.Errorf("unknown option %.40q, or one that lacks or has no value", key)
	}
	if err == nil && !a.ValidBefore.IsZero() && a.ValidBefore.Before(a.ValidAfter) {
		return errors.New("valid-before lies before valid-after")
	}
	return err
}

// cutQuoted reads a double-quoted string at the start of s.
func cutQuoted(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", errors.New("its value is not in double quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("its double quote is never closed")
}

// parseSignerTime reads YYYYMMDD[Z] and YYYYMMDDHHMM[SS][Z].
func parseSignerTime(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	loc := time.Local
	if utc {
		loc = time.UTC
	}
	layout, ok := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	if !ok {
		return time.Time{}, fmt.Errorf("%.40q is not a time; write YYYYMMDD or YYYYMMDDHHMM[SS], with Z for UTC", s)
	}
	t, err := time.ParseInLocation(layout, digits, loc)
	if err != nil {
		return time.Time{}, fmt.Errorf("%.40q is not a time: %w", s, err)
	}
	return t, nil
}

func splitPatterns(what, s string) ([]string, error) {
	p := strings.Split(s, ",")
	if len(p) > maxPatterns {
		return nil, fmt.Errorf("more than %d %s", maxPatterns, what)
	}
	for _, x := range p {
		if strings.TrimPrefix(x, "!") == "" {
			return nil, fmt.Errorf("an empty name among the %s", what)
		}
	}
	return p, nil
}

// parseKeyFields reads "type base64 [comment]".
func parseKeyFields(s string) (ssh.PublicKey, error) {
	f := strings.Fields(s)
	if len(f) < 2 {
		return nil, errors.New("no key; a line is: principals [options] key-type base64-key [comment]")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(f[1])
	if err != nil {
		return nil, fmt.Errorf("the key after %.40q is not base64", f[0])
	}
	k, err := ssh.ParsePublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("key of type %.40q: %w", f[0], err)
	}
	if k.Type() != f[0] {
		return nil, fmt.Errorf("key is said to be %.40q and is %q", f[0], k.Type())
	}
	if _, ok := k.(*ssh.Certificate); ok {
		return nil, errors.New("holds a certificate; list its authority's key with cert-authority")
	}
	return k, nil
}

// isKeyType reports whether s is a key type, not an option field: no option begins
// like one.
func isKeyType(s string) bool {
	return strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-")
}
