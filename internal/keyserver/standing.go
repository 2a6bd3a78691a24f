package keyserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/keyserver/attest"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/service"
)

// A manifest, a token and a policy rest on requests that an account's keys have
// signed. Whenever they are used, those keys must be enrolled: for that account, and
// for the time at which they signed. So a line with valid-before retires a key, and
// what it signed before that moment stays good; a line that is gone ends at once all
// that rests on the key, until it is there again. What the administrator withdrew
// stays so.

// bucketWithdrawn counts, by account id, how often the administrator withdrew what
// an account had made: withdrawals.
const bucketWithdrawn = "withdrawn"

// withdrawals of an account's: of its jobs with their tokens, and of its policies.
type withdrawals struct {
	Jobs     int `json:"jobs"`
	Policies int `json:"policies"`
}

func withdrawalsOf(g getter, account string) (n withdrawals, err error) {
	err = getJSON(g, bucketWithdrawn, account, &n)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return n, err
}

// forJobs is the caller's request, as a manifest or a token rests on it.
func (c caller) forJobs(g getter) (attest.Authority, error) {
	n, err := withdrawalsOf(g, c.account.ID)
	return attest.Authority{Account: c.account.ID, Key: c.key, At: c.at.UTC(), Withdrawn: n.Jobs}, err
}

// forPolicies is the caller's request, as a policy rests on it.
func (c caller) forPolicies(g getter) (attest.Authority, error) {
	n, err := withdrawalsOf(g, c.account.ID)
	return attest.Authority{Account: c.account.ID, Key: c.key, At: c.at.UTC(), Withdrawn: n.Policies}, err
}

// enrolled returns why a request signed in namespace counts no more, "" if it does.
func (s *Server) enrolled(a attest.Authority, namespace string) string {
	acc, err := s.accounts.lookup(a.Key, namespace, a.At)
	switch {
	case err != nil:
		return fmt.Sprintf("is not enrolled any more, or not for that time (%s)", a.At.UTC().Format(time.RFC3339))
	case acc.ID != a.Account:
		return "is enrolled for another account now"
	}
	return ""
}

// standsJob refuses the keys for a manifest that rests on nothing any more.
func (s *Server) standsJob(g getter, m manifestRecord) error {
	signed := m.Registered
	signed.Key = m.Signer
	for _, by := range []struct {
		what, namespace string
		authority       attest.Authority
	}{{"registered", keyapi.Namespace, m.Registered}, {"signed", manifest.NamespaceManifest, signed}} {
		if why := s.enrolled(by.authority, by.namespace); why != "" {
			return s.notStanding("the SSH key %s, with which the job's manifest was %s, %s", by.authority.Key, by.what, why)
		}
	}
	return notWithdrawn(g, m.Registered, "the job")
}

// standsEvidence does the same for evidence that comes from a submitter.
func (s *Server) standsEvidence(g getter, c attest.Claims) error {
	if c.Submitter == "" {
		return nil
	}
	if why := s.enrolled(c.Authority, keyapi.Namespace); why != "" {
		return s.notStanding("the SSH key %s, with which the %s was asked for, %s", c.Authority.Key, c.Attestor, why)
	}
	return notWithdrawn(g, c.Authority, "the "+c.Attestor)
}

func notWithdrawn(g getter, a attest.Authority, what string) error {
	n, err := withdrawalsOf(g, a.Account)
	if err != nil {
		return err
	}
	if a.Withdrawn != n.Jobs {
		return service.Refuse(keyapi.CodePolicy, "%s was withdrawn by the key service's administrator", what).
			WithHint("submit the job again, once the administrator says that the account is in order")
	}
	return nil
}

func (s *Server) notStanding(format string, args ...any) error {
	r := service.Refuse(keyapi.CodePolicy, format, args...).WithHint("submit the job again with a key that is enrolled")
	if s.accounts.uncertain() {
		return r.AsRetryable()
	}
	return r
}

// standsPolicy refuses a volume whose policy rests on nothing any more: its owner's
// account is gone, or the key with which the owner set it. Whose key that was is not
// the submitter's business.
func (s *Server) standsPolicy(g getter, sec secretRecord) error {
	n, err := withdrawalsOf(g, sec.Owner)
	if err != nil {
		return err
	}
	why := "was withdrawn by the key service's administrator"
	if sec.PolicySet.Withdrawn == n.Policies {
		if why = s.enrolled(sec.PolicySet, keyapi.Namespace); why == "" {
			return nil
		}
		why = "was set with an SSH key of its owner's that " + why
	}
	r := service.Refuse(keyapi.CodePolicy, "volume %s (%s): its policy %s", keyapi.Called(sec.Name, sec.File), sec.VolumeID, why).
		WithHint("its owner looks at the policy and sets it again: sealbatch policy renew")
	if s.accounts.uncertain() {
		return r.AsRetryable()
	}
	return r
}
