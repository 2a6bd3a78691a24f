package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/kevinburke/ssh_config"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// hostKeys checks one host's key against known_hosts files.
type hostKeys struct {
	target *target
	known  ssh.HostKeyCallback
	isCA   map[string]bool // marshalled keys on @cert-authority lines that match the host
	passed bool            // the host's key was accepted
}

func newHostKeys(t *target) (*hostKeys, error) {
	var files []string
	for _, f := range t.knownHosts {
		switch err := trusted.Check(f, trusted.Public); {
		case err == nil:
			files = append(files, f)
		case errors.Is(err, trusted.ErrUnsafe):
			return nil, fail(Error{Kind: ErrConfig, What: "known_hosts", Err: err, Next: fault.Hint(err)})
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, fail(Error{Kind: ErrConfig, What: "cannot read known_hosts", Err: err})
	}
	h := &hostKeys{target: t, known: known, isCA: map[string]bool{}}
	for _, f := range files {
		if err := h.findCAs(f); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// maxKnownHosts bounds a known_hosts file, in bytes.
const maxKnownHosts = 64 << 20

// findCAs remembers the authorities that a file names for the host: the known_hosts package does not
// tell them from the host's own keys.
func (h *hostKeys) findCAs(file string) error {
	data, err := trusted.ReadFile(file, maxKnownHosts)
	if err != nil {
		return fail(Error{Kind: ErrConfig, What: "cannot read known_hosts", Err: err})
	}
	name := knownhosts.Normalize(h.target.hostKeyAddress())
	for {
		marker, patterns, key, _, rest, err := ssh.ParseKnownHosts(data)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fail(Error{Kind: ErrConfig, What: "cannot read " + file, Err: err})
		}
		data = rest
		if marker == "cert-authority" && matches(patterns, name) {
			h.isCA[string(key.Marshal())] = true
		}
	}
}

func matches(patterns []string, name string) bool {
	var host ssh_config.Host
	for _, p := range patterns {
		if pattern, err := ssh_config.NewPattern(p); err == nil {
			host.Patterns = append(host.Patterns, pattern)
		}
	}
	return host.Matches(name)
}

// ownKeys returns the host's own known keys.
func (h *hostKeys) ownKeys(want []knownhosts.KnownKey) []knownhosts.KnownKey {
	return slices.DeleteFunc(slices.Clone(want), func(k knownhosts.KnownKey) bool { return h.isCA[string(k.Key.Marshal())] })
}

// algorithms orders what the client offers so that the server presents a key that is known, if it has
// one: certificates if an authority is known, then the types of known keys, then the others.
func (h *hostKeys) algorithms() []string {
	supported := ssh.SupportedAlgorithms().HostKeys
	var certs, first, rest []string
	wanted := map[string]bool{}
	var keyErr *knownhosts.KeyError
	if err := h.known(h.target.hostKeyAddress(), &net.TCPAddr{}, probe{}); errors.As(err, &keyErr) {
		for _, k := range h.ownKeys(keyErr.Want) {
			wanted[k.Key.Type()] = true
		}
	}
	for _, a := range supported {
		switch {
		case strings.Contains(a, "-cert-"):
			certs = append(certs, a)
		case wanted[a] || (strings.HasPrefix(a, "rsa-sha2-") && wanted[ssh.KeyAlgoRSA]):
			first = append(first, a)
		default:
			rest = append(rest, a)
		}
	}
	plain := append(first, rest...)
	if len(h.isCA) > 0 {
		return append(certs, plain...)
	}
	return plain // a certificate of an unknown authority is worth nothing, and hides the key beneath
}

// probe is a key that no host has.
type probe struct{}

func (probe) Type() string                        { return "probe" }
func (probe) Marshal() []byte                     { return []byte("probe") }
func (probe) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// check is the ssh.HostKeyCallback.
func (h *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	err := h.known(h.target.hostKeyAddress(), &net.TCPAddr{}, key)
	var keyErr *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case err == nil:
		h.passed = true
		return nil
	case errors.As(err, &revoked):
		return fail(Error{Kind: ErrHostKeyChanged, What: fmt.Sprintf("%s presented a host key that %s:%d marks as revoked",
			h.target.host, revoked.Revoked.Filename, revoked.Revoked.Line),
			Next: "do not log in; ask the site's support"})
	case !errors.As(err, &keyErr):
		return fail(Error{Kind: ErrHostKeyChanged, What: h.target.host + " presented a host certificate that is not valid", Err: err,
			Next: "ask the site's support"})
	}
	if own := h.ownKeys(keyErr.Want); len(own) > 0 {
		return h.changed(key, own)
	}
	return h.unknown(key)
}

func (h *hostKeys) unknown(key ssh.PublicKey) error {
	t := h.target
	file := "~/.ssh/known_hosts"
	if len(t.knownHosts) > 0 {
		file = t.knownHosts[0]
	}
	return fail(Error{Kind: ErrHostKeyUnknown,
		What: fmt.Sprintf("the host key of %s is unknown (%s %s)", knownhosts.Normalize(t.hostKeyAddress()), key.Type(),
			ssh.FingerprintSHA256(key)),
		Next: fmt.Sprintf("compare the fingerprint with the one that the site publishes; "+
			"if it is the same: ssh-keyscan -p %d %s >>%s", t.port, t.host, file)})
}

func (h *hostKeys) changed(key ssh.PublicKey, own []knownhosts.KnownKey) error {
	at := own[0]
	for _, k := range own {
		if k.Key.Type() == key.Type() && !bytes.Equal(k.Key.Marshal(), key.Marshal()) {
			at = k
		}
	}
	name := knownhosts.Normalize(h.target.hostKeyAddress())
	return fail(Error{Kind: ErrHostKeyChanged,
		What: fmt.Sprintf("the host key of %s is not the one in %s:%d: it presented %s %s, known is %s %s; someone may be in between",
			name, at.Filename, at.Line, key.Type(), ssh.FingerprintSHA256(key), at.Key.Type(), ssh.FingerprintSHA256(at.Key)),
		Next: fmt.Sprintf("only if the site announced new keys: ssh-keygen -f %s -R '%s', then take the new one from the site",
			at.Filename, name)})
}
