package keyserver

import (
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/sshid"
	"github.com/sealbatch/sealbatch/internal/trusted"
)

// maxAccountsFile bounds the file, in bytes.
const maxAccountsFile = 4 << 20

// keyring is who may sign, by the fingerprints of their keys. Several lines may hold
// one key, for different namespaces or times, but for one name.
type keyring map[string][]sshid.AllowedSigner

// accountsFile is one version of the administrator's file of accounts.
type accountsFile struct {
	keys keyring
	bad  []error // why lines do not count; none in a good version
}

// parseAccounts reads a version. Lines that cannot be an account's, and keys that
// stand under two names, do not count.
func parseAccounts(path, text string) accountsFile {
	f := accountsFile{keys: keyring{}}
	wrong := func(err error) { f.bad = append(f.bad, fmt.Errorf("%s: %w", path, err)) }
	lines, err := sshid.ParseAllowedSigners(strings.NewReader(text))
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			wrong(err)
		}
	} else if err != nil {
		wrong(err)
	}
	twice := map[string]bool{}
	for _, l := range lines {
		if err := checkEnrolment(l); err != nil {
			wrong(fmt.Errorf("line %d: %w", l.Line, err))
			continue
		}
		k := sshid.Fingerprint(l.Key)
		if have := f.keys[k]; len(have) > 0 && name(have[0]) != name(l) {
			wrong(fmt.Errorf("line %d: key %s stands under two names, %s and %s", l.Line, k, name(have[0]), name(l)))
			twice[k] = true
		}
		f.keys[k] = append(f.keys[k], l)
	}
	for k := range twice {
		delete(f.keys, k)
	}
	return f
}

// name returns the account's name of a line that checkEnrolment accepts.
func name(l sshid.AllowedSigner) string { return l.Principals[0] }

// checkEnrolment accepts what can be an account: one plain name, a strong key.
func checkEnrolment(l sshid.AllowedSigner) error {
	if len(l.Principals) != 1 || l.Principals[0] == "" || strings.ContainsAny(l.Principals[0], "*?!") {
		return fmt.Errorf("%.80q: an account is one name without wildcards", strings.Join(l.Principals, ","))
	}
	if l.CertAuthority {
		return fmt.Errorf("%s: cert-authority is not supported for accounts: list the keys themselves", name(l))
	}
	if err := sshid.CheckKey(l.Key); err != nil {
		return fmt.Errorf("%s: %w", name(l), err)
	}
	return nil
}

// names returns the accounts' names.
func (k keyring) names() map[string]bool {
	out := map[string]bool{}
	for _, lines := range k {
		out[name(lines[0])] = true
	}
	return out
}

// CheckAccounts reads a file of accounts as the key service would, and returns how
// many accounts and keys it enrols, and everything that is wrong with it.
func CheckAccounts(path string) (accounts, keys int, problems []error) {
	b, err := trusted.ReadFile(path, maxAccountsFile)
	if err != nil {
		return 0, 0, []error{err}
	}
	f := parseAccounts(path, string(b))
	return len(f.keys.names()), len(f.keys), f.bad
}
