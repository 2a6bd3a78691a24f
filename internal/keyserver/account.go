package keyserver

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/sshid"
)

// getAccount answers GET /v1/account.
func (s *Server) getAccount(q *request) (any, error) {
	out := keyapi.Account{Name: q.caller.account.Name, Keys: []keyapi.AccountKey{}}
	for _, l := range s.accounts.linesOf(out.Name) {
		out.Keys = append(out.Keys, keyapi.AccountKey{Key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.Key))),
			Namespaces: l.Namespaces, ValidAfter: l.ValidAfter, ValidBefore: l.ValidBefore})
	}
	_, err := q.commit(q.event("account.get", audit.OutcomeDone), nil)
	return out, err
}

// linesOf returns the lines that count for a name now, by the fingerprints of their keys.
func (a *accounts) linesOf(of string) (out []sshid.AllowedSigner) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, k := range slices.Sorted(maps.Keys(a.in.good)) {
		for _, l := range a.in.good[k] {
			same := func(p sshid.AllowedSigner) bool {
				return name(p) == name(l) && slices.Equal(p.Namespaces, l.Namespaces) &&
					p.ValidAfter.Equal(l.ValidAfter) && p.ValidBefore.Equal(l.ValidBefore)
			}
			if name(l) == of && slices.ContainsFunc(a.in.present[k], same) {
				out = append(out, l)
			}
		}
	}
	return out
}
