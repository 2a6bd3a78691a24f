package transfer

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// hostKeys checks one host's key against known_hosts files.
type hostKeys struct {
	target *target
	known  []knownKey
	listed []knownKey // revoked by RevokedHostKeys, whatever the host
	bad    []string   // lines that could not be read
	passed bool       // the host's key was accepted
}

func newHostKeys(t *target) (*hostKeys, error) {
	known, bad, err := knownKeys(t.knownHosts, t.hostKeyAddress())
	if err != nil {
		return nil, err
	}
	listed, err := revokedKeys(t.revoked)
	if err != nil {
		return nil, err
	}
	h := &hostKeys{target: t, known: known, listed: listed, bad: bad}
	if len(h.algorithms()) == 0 {
		return nil, fail(Error{Kind: ErrConfig,
			What: fmt.Sprintf("ssh_config allows no algorithm for the host key of %s that sealbatch has: HostKeyAlgorithms %s",
				t.alias, strings.Join(t.hostKeyAlgorithms, ",")),
			Next: "allow one of " + strings.Join(ssh.SupportedAlgorithms().HostKeys, ",")})
	}
	return h, nil
}

// name is how known_hosts calls the host.
func (h *hostKeys) name() string {
	host, port, err := net.SplitHostPort(h.target.hostKeyAddress())
	if err != nil || port == "22" {
		return strings.ToLower(host)
	}
	return "[" + strings.ToLower(host) + "]:" + port
}

// having returns the lines with a marker, and with the key unless it is nil.
func (h *hostKeys) having(marker string, key ssh.PublicKey) (out []knownKey) {
	for _, k := range h.known {
		if k.marker == marker && (key == nil || k.has(key)) {
			out = append(out, k)
		}
	}
	return out
}

// has reports whether the line has a key.
func (k knownKey) has(key ssh.PublicKey) bool { return bytes.Equal(k.key.Marshal(), key.Marshal()) }

// own returns the host's own known keys: where lines name it with its port, those alone, as ssh looks. Behind a
// gateway's forwarded port is another host than the gateway.
func (h *hostKeys) own() []knownKey {
	all := h.having("", nil)
	if full := slices.DeleteFunc(slices.Clone(all), func(k knownKey) bool { return k.bare }); len(full) > 0 {
		return full
	}
	return all
}

// algorithms orders what the client offers, of what ssh_config allows, so that the server presents a key
// that is known, if it has one: certificates if an authority is known, then the types of known keys, then
// the others.
func (h *hostKeys) algorithms() []string {
	var certs, first, rest []string
	wanted := map[string]bool{}
	for _, k := range h.own() {
		wanted[k.key.Type()] = true
	}
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		switch {
		case h.target.hostKeyAlgorithms != nil && !slices.Contains(h.target.hostKeyAlgorithms, a):
		case strings.Contains(a, "-cert-"):
			certs = append(certs, a)
		case wanted[a] || (strings.HasPrefix(a, "rsa-sha2-") && wanted[ssh.KeyAlgoRSA]):
			first = append(first, a)
		default:
			rest = append(rest, a)
		}
	}
	plain := append(first, rest...)
	if len(h.having("cert-authority", nil)) > 0 {
		return append(certs, plain...)
	}
	return plain // a certificate of an unknown authority is worth nothing, and hides the key beneath
}

// check is the ssh.HostKeyCallback.
func (h *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		return h.checkCertificate(cert)
	}
	if err := h.checkRevoked(key); err != nil {
		return err
	}
	own := h.own()
	switch {
	case slices.ContainsFunc(own, func(k knownKey) bool { return k.has(key) }):
		h.passed = true
		return nil
	case len(own) > 0 && !own[0].bare:
		return h.changed(key, own)
	}
	return h.unknown(key)
}

// checkRevoked refuses a key that a line of known_hosts marks, for the host with its port or without, or that
// a list of RevokedHostKeys has.
func (h *hostKeys) checkRevoked(key ssh.PublicKey) error {
	revoked := h.having("revoked", key)
	for _, k := range h.listed {
		if k.has(plain(key)) {
			revoked = append(revoked, k)
		}
	}
	if len(revoked) == 0 {
		return nil
	}
	return fail(Error{Kind: ErrHostKeyChanged,
		What: fmt.Sprintf("%s presented a host key that %s marks as revoked", h.target.host, revoked[0].at()),
		Next: "do not log in; ask the site's support"})
}

// checkCertificate accepts a certificate of a known authority for the host.
func (h *hostKeys) checkCertificate(cert *ssh.Certificate) error {
	for _, key := range []ssh.PublicKey{cert, cert.Key, cert.SignatureKey} {
		if err := h.checkRevoked(key); err != nil {
			return err
		}
	}
	checker := ssh.CertChecker{
		IsHostAuthority: func(key ssh.PublicKey, _ string) bool { return len(h.having("cert-authority", key)) > 0 },
	}
	if !checker.IsHostAuthority(cert.SignatureKey, "") {
		return h.check("", nil, cert.Key)
	}
	if err := checker.CheckHostKey(h.target.hostKeyAddress(), nil, cert); err != nil {
		return fail(Error{Kind: ErrHostKeyChanged, What: h.target.host + " presented a host certificate that is not valid", Err: err,
			Next: "ask the site's support"})
	}
	h.passed = true
	return nil
}

func (h *hostKeys) unknown(key ssh.PublicKey) error {
	t := h.target
	file := "~/.ssh/known_hosts"
	if len(t.knownHosts) > 0 {
		file = t.knownHosts[0]
	}
	where := ""
	if outside, moved := strings.CutPrefix(file, userdirs.Mounted+"/"); moved && userdirs.Container() {
		where, file = ", outside of the container", "~/.ssh/"+outside
	}
	if file == os.DevNull {
		file = "FILE, and [supercomputer] known-hosts = FILE, since ssh_config names " + os.DevNull
	}
	what := fmt.Sprintf("the host key of %s is unknown (%s %s)", h.name(), key.Type(), ssh.FingerprintSHA256(key))
	if len(h.bad) > 0 {
		what += "; passed over, since it cannot be read: " + strings.Join(h.bad[:min(len(h.bad), maxBadLines)], ", ")
	}
	next := fmt.Sprintf("compare the fingerprint with the one that the site publishes; "+
		"if it is the same%s: ssh-keyscan -p %d %s >>%s", where, t.port, t.host, file)
	if t.strict == "false" || t.strict == "accept-new" {
		next += "; StrictHostKeyChecking in ssh_config does not change this: sealbatch takes no key that nobody compared"
	}
	return fail(Error{Kind: ErrHostKeyUnknown, What: what, Next: next})
}

// maxBadLines bounds the lines that an error names.
const maxBadLines = 3

func (h *hostKeys) changed(key ssh.PublicKey, own []knownKey) error {
	at := own[0]
	for _, k := range own {
		if k.key.Type() == key.Type() {
			at = k
		}
	}
	return fail(Error{Kind: ErrHostKeyChanged,
		What: fmt.Sprintf("the host key of %s is not the one in %s: it presented %s %s, known is %s %s; someone may be in between",
			h.name(), at.at(), key.Type(), ssh.FingerprintSHA256(key), at.key.Type(), ssh.FingerprintSHA256(at.key)),
		Next: fmt.Sprintf("only if the site announced new keys: ssh-keygen -f %s -R '%s', then take the new one from the site",
			at.file, h.name())})
}
